"""Rules for Prometheus and a dashboard for Grafana, with thresholds out of what was measured."""
