"""GitHub over HTTP: its pages, its "nothing new" and its "not so fast"."""

from collections.abc import Iterator
from datetime import timedelta

from airflow.providers.http.hooks.http import HttpHook
from airflow.sdk import RetryDecision, RetryPolicy


class RateLimited(Exception):
    """GitHub wants us to wait."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"GitHub wants us to wait for {seconds} seconds")
        self.seconds = seconds


class GithubHook(HttpHook):
    """Reads lists from GitHub's REST API.

    :param github_conn_id: host with the API's address; a token goes into its password.
    """

    conn_name_attr = "github_conn_id"
    default_conn_name = "github"
    conn_type = "http"
    hook_name = "GitHub"

    def __init__(self, github_conn_id: str = default_conn_name) -> None:
        super().__init__("GET", http_conn_id=github_conn_id)

    def pages(self, path: str, known: dict[str, str]) -> Iterator[list[dict]]:
        """The items of each page that is not as it was when we saw it last.

        :param known: the ETag of each address that was read before; brought up to date.
        """
        url: str | None = path
        while url:
            answer = self.run(
                url,
                headers={"If-None-Match": known[url]} if url in known else {},
                extra_options={"check_response": False},
            )
            if answer.status_code == 403 and "Retry-After" in answer.headers:
                raise RateLimited(int(answer.headers["Retry-After"]))
            self.check_response(answer)
            if answer.status_code != 304:
                if "ETag" in answer.headers:
                    known[url] = answer.headers["ETag"]
                yield answer.json()
            following = answer.links.get("next", {}).get("url")
            url = f"{path}?{following.partition('?')[2]}" if following else None


class WhenGithubSays(RetryPolicy):
    """Tries again after as long as GitHub says; other failures follow the task's own `retry_delay`."""

    def evaluate(self, exception, try_number, max_tries, context=None) -> RetryDecision:
        if isinstance(exception, RateLimited):
            return RetryDecision.retry(timedelta(seconds=exception.seconds), reason=str(exception))
        return RetryDecision.default()

    def serialize(self) -> dict:
        return {}

    @classmethod
    def deserialize(cls, data: dict) -> "WhenGithubSays":
        return cls()
