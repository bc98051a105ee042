"""The stock room for DAGs: an operator, and the button that its task instances get in the web UI."""

from collections.abc import Sequence
from urllib.parse import quote

from airflow.sdk import BaseOperator, BaseOperatorLink, Context

from acme_ops.hook import StockHook


class StockLink(BaseOperatorLink):
    """Leads from a task instance to the plugin's page."""

    name = "Stock room"

    def get_link(self, operator: BaseOperator, *, ti_key) -> str:
        """Called when the task has succeeded or failed."""
        return f"/ops/?task={quote(ti_key.task_id)}"


class StockCheckOperator(BaseOperator):
    """Compares what is in stock with what should be.

    :param item: what to look for (templated).
    :param minimum: how many there should be (templated).
    :param stock_conn_id: see `StockHook`.
    """

    template_fields: Sequence[str] = ("item", "minimum")
    operator_extra_links = (StockLink(),)
    ui_color = "#f2e3c9"

    def __init__(
        self, *, item: str, minimum: int | str = 0, stock_conn_id: str = StockHook.default_conn_name, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.item = item
        self.minimum = minimum
        self.stock_conn_id = stock_conn_id

    def execute(self, context: Context) -> dict:
        """Returns the item, and how many are missing."""
        have = StockHook(self.stock_conn_id).in_stock(self.item)
        missing = max(int(self.minimum) - have, 0)
        self.log.info("%s: %s in stock, %s missing", self.item, have, missing)
        return {"item": self.item, "missing": missing}
