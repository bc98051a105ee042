"""`astro airflow pytest` runs these in the sandbox, on a database of their own."""


def test_every_dag_file_can_be_imported(dag_bag):
    assert dag_bag.import_errors == {}


def test_it_greets_the_world(run_dag):
    assert run_dag("hello").xcom("greet") == "hello, world"


def test_it_greets_whom_the_run_is_for(run_dag):
    assert run_dag("hello", conf={"name": "you"}).xcom("greet") == "hello, you"
