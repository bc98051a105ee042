"""What is asked of GitHub, and where it is kept."""

BUCKET = "github"
OF_ORG = {"repos": "orgs/{org}/repos", "members": "orgs/{org}/members"}
OF_REPO = {
    "commits": "repos/{org}/{repo}/commits",
    "issues": "repos/{org}/{repo}/issues",
    "comments": "repos/{org}/{repo}/issues/comments",
    "pulls": "repos/{org}/{repo}/pulls",
}
OBJECTS = (*OF_ORG, *OF_REPO)


def row(kind: str, org: str, repo: str | None, item: dict) -> tuple:
    """An item of GitHub's as a row of `github_items`."""
    author = item.get("user") or item.get("author") or {}
    login = item["login"] if kind == "members" else author.get("login")
    closed = item.get("merged_at") if kind == "pulls" else item.get("closed_at")
    created = item.get("created_at") or (item.get("commit") or {}).get("date")
    return kind, item["id"], org, repo, login, created, closed
