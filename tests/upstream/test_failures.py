import httpx
import pytest

from steer_server.upstream.failures import of_exception

SECRET = "https://me:hush@host/v1"


def subclasses(cls: type[httpx.RequestError]) -> set[type[httpx.RequestError]]:
    return {cls}.union(*(subclasses(child) for child in cls.__subclasses__()))


@pytest.mark.parametrize("cls", sorted(subclasses(httpx.RequestError), key=lambda cls: cls.__name__))
def test_every_exception_of_httpx_is_an_error_and_its_text_stays_here(
    cls: type[httpx.RequestError],
) -> None:
    failure = of_exception("up", cls(SECRET))
    assert failure.error.http_status in (502, 503, 504) and "'up'" in str(failure.error)
    assert "hush" not in str(failure.error.body())


@pytest.mark.parametrize(
    ("cls", "status", "can_retry", "has_failed"),
    [
        (httpx.ConnectError, 502, True, True),
        (httpx.ConnectTimeout, 504, True, True),
        (httpx.WriteTimeout, 504, False, True),
        (httpx.ReadError, 502, False, True),
        (httpx.RemoteProtocolError, 502, False, True),
        (httpx.PoolTimeout, 503, False, False),
    ],
)
def test_only_a_connection_that_was_not_made_is_tried_again(
    cls: type[httpx.RequestError], status: int, can_retry: bool, has_failed: bool
) -> None:
    failure = of_exception("up", cls("x"))
    assert failure.error.http_status == status
    assert (failure.can_retry, failure.has_failed) == (can_retry, has_failed)
