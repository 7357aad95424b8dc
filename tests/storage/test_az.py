import pytest

from mopt.storage.az import Azure
from tests.stores import AZURE_KEY

WITH_ACCOUNT = "az://box@account.blob.core.windows.net/models/a"


def test_the_account_may_stand_in_the_url():
    storage = Azure(WITH_ACCOUNT)
    assert (storage.root, storage.account) == ("box/models/a", "account")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AZURE_STORAGE_ACCOUNT_NAME", "named"),
        ("AZURE_STORAGE_CONNECTION_STRING", f"DefaultEndpointsProtocol=https;AccountName=named;AccountKey={AZURE_KEY}"),
    ],
)
def test_or_in_the_environment(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert Azure("az://box/models/a").account == "named"
    assert Azure(WITH_ACCOUNT).account == "account"


def test_kserve_takes_the_https_form_which_needs_the_account(monkeypatch):
    assert Azure(WITH_ACCOUNT).serving_uri("model") == "https://account.blob.core.windows.net/box/models/a/model"
    assert Azure("az://box/models/a").serving_uri("model") == ""


def test_an_md5_proves_the_content_where_there_is_one():
    storage = Azure("az://box/x")
    info = {"size": 6, "etag": '"0x8D"', "content_settings": {"content_md5": bytearray(b"\1\2")}}
    assert storage.remote_file("x", info).digests == {"md5": "0102"}
    assert storage.remote_file("x", {"size": 6, "etag": '"0x8D"', "content_settings": {"content_md5": None}}).digests == {}
    assert "md5" in Azure.proves
