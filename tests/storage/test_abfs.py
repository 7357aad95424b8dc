from mopt.storage._base import storage_of
from mopt.storage.abfs import AzureDataLake


def test_it_is_azure_by_the_name_that_hadoop_gave_it():
    storage = storage_of("abfs://box@account.dfs.core.windows.net/models/a")
    assert isinstance(storage, AzureDataLake)
    assert (storage.scheme, storage.root, storage.account) == ("abfs", "box/models/a", "account")
