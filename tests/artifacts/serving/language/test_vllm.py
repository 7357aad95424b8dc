import json
import os

import psutil
import pytest

from mopt.artifacts.serving.language.vllm import Vllm
from mopt.errors import NotApplicableError
from mopt.loadgen.protocols._openai import connect_openai, greedy_tokens, prompt_logprobs, stream_chat
from mopt.loadgen.server_process import free_ports, running
from mopt.system.environments import find_environment
from tests.served_language import HOSTILE, INT8_ALONE, served, written

yaml = pytest.importorskip("yaml")
ENVIRONMENT = find_environment("vllm")
needs_vllm = pytest.mark.skipif(ENVIRONMENT is None, reason="the environment vllm is not installed")
PLAIN = served(method="none", scheme=None)


def test_options_are_those_of_vllm_serve(tmp_path):
    folder = written(Vllm(), tmp_path, served(kv_cache="fp8"))
    options = yaml.safe_load((folder / "vllm.yaml").read_text())
    assert options == {
        "model": "../../model", "served-model-name": "tiny", "max-model-len": 128, "kv-cache-dtype": "fp8", "port": 8000,
    }  # fmt: skip
    readme = (folder / "README.md").read_text()
    assert "vllm serve ../../model --served-model-name tiny --max-model-len 128 --kv-cache-dtype fp8" in readme
    assert "VLLM_CPU_INT4_W4A8=0" in readme


def test_on_a_cpu_it_runs_as_it_was_judged(tmp_path):
    folder = written(Vllm(), tmp_path, served())
    variables = dict(line.split("=") for line in (folder / "cpu.env").read_text().splitlines())
    assert variables["OMP_NUM_THREADS"] == "2"
    assert variables["VLLM_CPU_INT4_W4A8"] == "0"
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert "mopt tools install --quiet vllm" in (folder / "serve_cpu.sh").read_text()


def test_a_hostile_name_stays_text(tmp_path):
    folder = written(Vllm(), tmp_path, served(name=HOSTILE))
    assert yaml.safe_load((folder / "vllm.yaml").read_text())["served-model-name"] == "x_rm_-rf_script_id_id"
    assert all("$(id)" not in path.read_text() for path in folder.iterdir() if path.suffix != ".md")


def test_static_fp8_is_not_started_on_a_cpu(tmp_path):
    folder = written(Vllm(), tmp_path, served())
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    inputs = {"type": "float", "num_bits": 8, "dynamic": False}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "config_groups": {"a": {"input_activations": inputs}},
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(NotApplicableError, match="cannot round to FP8"):
        Vllm().launch(
            folder, served=served(), model_folder=tmp_path / "model", environment=None, ports=free_ports(), scratch=tmp_path
        )


def test_what_has_no_kernel_is_refused():
    assert Vllm().refuses(served()) == ""
    assert "no kernel for int8" in Vllm().refuses(served(scheme=INT8_ALONE))


@needs_vllm
@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize(("line", "said"), [("", ""), ("no-such-option: 1\n", "refuses an option")], ids=["right", "wrong"])
def test_vllm_itself_reads_the_options(tmp_path, line, said):
    folder = written(Vllm(), tmp_path, PLAIN)
    with (folder / "vllm.yaml").open("a") as stream:
        stream.write(line)
    (proof,) = Vllm().check(folder, served=PLAIN, model_folder=tmp_path / "model", environment=ENVIRONMENT)
    assert proof.state == ("failed" if said else "proven")
    assert said in proof.detail


@needs_vllm
@pytest.mark.slow
@pytest.mark.servers
def test_its_real_server_streams_a_chat_and_is_gone_afterwards(tmp_path):
    system, scratch = Vllm(), tmp_path / "scratch"
    scratch.mkdir()
    folder = written(system, tmp_path, PLAIN)
    launch = system.launch(
        folder, served=PLAIN, model_folder=tmp_path / "model", environment=ENVIRONMENT, ports=free_ports(), scratch=scratch
    )
    with running(launch, seconds=500):
        members = psutil.Process(os.getpid()).children(recursive=True)
        endpoint = connect_openai(launch.url, model=launch.model)
        chat = stream_chat(endpoint, [{"role": "user", "content": "the time"}], count=8)
        ids = greedy_tokens(endpoint, [1, 300, 301], count=6)
        scores = prompt_logprobs(endpoint, [1, 300, 301, 302])
    assert 1 < chat.events <= 8
    assert 0 < chat.first_seconds <= chat.seconds
    assert len(ids) <= 6
    assert len(scores) == 3
    assert all(score < 0 for score in scores)
    assert members
    assert not [process for process in members if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
