import errno
import io
import logging
import sys
import traceback

import pytest

from mopt.errors import MissingDependencyError, UserError
from mopt.storage._refusals import answered_by, reason_of
from mopt.storage.s3 import S3
from tests.stores import SECRET


@pytest.fixture
def storage(monkeypatch):
    monkeypatch.setattr(S3, "library", lambda _: None)
    return S3("s3://bucket/x")


class NoCredentialsError(Exception):
    """Called as botocore's."""


class ClientError(Exception):
    def __init__(self, status, code):
        super().__init__(f"the request with {SECRET} failed")
        self.response = {"Error": {"Code": code, "Message": SECRET}, "ResponseMetadata": {"HTTPStatusCode": status}}


class HttpError(Exception):
    def __init__(self, code):
        super().__init__(SECRET)
        self.code = code


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ClientError(403, "AccessDenied"), "access is denied (ClientError, HTTP 403, AccessDenied)"),
        (ClientError(404, "NoSuchBucket"), "nothing is there (ClientError, HTTP 404, NoSuchBucket)"),
        (ClientError(500, SECRET), "its library failed (ClientError, HTTP 500)"),
        (HttpError(401), "access is denied (HttpError, HTTP 401)"),
        (FileNotFoundError(2, SECRET), "nothing is there (FileNotFoundError)"),
        (PermissionError(SECRET), "access is denied (PermissionError)"),
        (NoCredentialsError(SECRET), "it found no credentials that it could use (NoCredentialsError)"),
        (TimeoutError(SECRET), "the server did not answer in time (TimeoutError)"),
        (ConnectionResetError(SECRET), "the server cannot be reached (ConnectionResetError)"),
        (ValueError(f"https://bucket/x?X-Amz-Signature={SECRET}"), "its library failed (ValueError)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_reason_is_made_of_names_and_codes_alone(error, reason):
    assert reason_of(error) == reason
    assert SECRET not in reason


def test_what_is_behind_an_error_is_told_with_it(storage):
    translated = PermissionError(errno.EACCES, SECRET)
    translated.__cause__ = ClientError(403, "InvalidAccessKeyId")
    with pytest.raises(UserError) as refused, answered_by(storage, "read"):
        raise translated
    assert refused.value.message == (
        "s3://bucket/x cannot be read: access is denied (PermissionError, ClientError, HTTP 403, InvalidAccessKeyId)"
    )


@pytest.mark.parametrize("error", [RuntimeError(SECRET), ClientError(403, SECRET), OSError(errno.EIO, SECRET)])
def test_no_text_of_a_library_is_in_a_message_or_in_a_traceback(storage, error):
    try:
        with answered_by(storage, "written"):
            raise error
    except UserError as refused:
        shown = "".join(traceback.format_exception(refused)) + refused.message + refused.hint
    assert "s3://bucket/x cannot be written" in shown
    assert SECRET not in shown


def test_a_full_disk_is_said_to_be_one(storage):
    with pytest.raises(UserError, match="the disk is full"), answered_by(storage, "read"):
        raise OSError(errno.ENOSPC, SECRET)


def test_what_mopt_itself_refuses_stays_as_it_is(storage):
    with pytest.raises(UserError, match=r"^mine$"), answered_by(storage, "read"):
        raise UserError("mine")


def test_a_library_that_is_not_installed_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingDependencyError) as missing, answered_by(S3("s3://bucket/x"), "read"):
        pytest.fail("there is nothing to work with")
    assert (missing.value.message, missing.value.hint) == ("s3fs is not installed", "pip install 'mopt[s3]'")


def test_a_library_is_silent_while_it_works_and_as_before_after_it(storage, monkeypatch):
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)  # some library of another test sets it
    written = io.StringIO()
    logger = logging.getLogger("botocore.of_this_test")
    logger.addHandler(logging.StreamHandler(written))
    logging.getLogger("botocore").setLevel(logging.DEBUG)
    with answered_by(storage, "read"):
        logger.debug(SECRET)
        logger.error(SECRET)
    assert written.getvalue() == ""
    logger.debug("again")
    assert written.getvalue() == "again\n"
    logging.getLogger("botocore").setLevel(logging.NOTSET)
