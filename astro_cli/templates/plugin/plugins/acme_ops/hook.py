"""The door to the stock room. Everything that needs a connection goes through a hook."""

import csv
from pathlib import Path

from airflow.sdk import BaseHook, conf


class StockHook(BaseHook):
    """Reads the stock list that a connection of the type `acme_stock` points to.

    :param stock_conn_id: its host is the path of a CSV file, below the project's folder or absolute.
    """

    conn_name_attr = "stock_conn_id"
    default_conn_name = "stock"
    conn_type = "acme_stock"
    hook_name = "Acme stock room"

    def __init__(self, stock_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.stock_conn_id = stock_conn_id

    def get_conn(self) -> Path:
        """The stock list."""
        project = Path(conf.get("core", "plugins_folder")).parent
        return project / self.get_connection(self.stock_conn_id).host

    def in_stock(self, item: str) -> int:
        """How many there are of an item; 0 if nobody has heard of it."""
        with self.get_conn().open(newline="") as file:
            levels = {row["item"]: int(row["in_stock"]) for row in csv.DictReader(file)}
        return levels.get(item, 0)

    def test_connection(self) -> tuple[bool, str]:
        """Whether the list can be read, and a sentence for people."""
        path = self.get_conn()
        return (True, f"{path.name} is there") if path.is_file() else (False, f"{path} is not there")
