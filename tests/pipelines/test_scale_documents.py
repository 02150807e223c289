import re
from pathlib import Path

from ruamel.yaml import YAML

from pipelines import remote, stage_flow, worker

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "scale"


def read(name):
    return YAML(typ="safe").load(FOLDER / name)


def test_the_compose_file_is_consistent():
    compose = read("compose.yaml")
    services = compose["services"]
    for name, service in services.items():
        assert {"image", "build"} & set(service), name
        assert set(service.get("depends_on", ())) <= set(services), name
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in compose["volumes"], name
        for build in filter(None, [service.get("build")]):
            assert (FOLDER / build["context"] / build["dockerfile"]).resolve() == FOLDER / "Dockerfile"
    hosts = set(re.findall(r"(?:://|@)(?:[\w:-]+@)?([a-z]\w*)[:/]", (FOLDER / "compose.yaml").read_text()))
    buckets = {"dvc", "checkpoints", "mlflow"}
    assert hosts - buckets <= set(services)
    made = services["buckets"]["entrypoint"][-1]
    assert all(f"here/{bucket}" in made for bucket in buckets)
    urls = re.findall(r"postgresql\S*?://mlml:(\S+?)@postgres/(\w+)", (FOLDER / "compose.yaml").read_text())
    assert {name for _, name in urls} == {"prefect", "mlflow", "optuna"}
    assert {password for password, _ in urls} == {services["postgres"]["environment"]["POSTGRES_PASSWORD"]}
    assert all(name in services["databases"]["command"][-1] for _, name in urls)
    worker.needs(services["worker"]["environment"])


def test_the_kubernetes_pool_names_only_its_own_variables():
    pool = read("kubernetes-work-pool.yaml")
    template = pool["base_job_template"]
    named = set(re.findall(r"{{ (\w+) }}", str(template["job_configuration"])))
    assert named == set(template["variables"]["properties"])
    [container] = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    assert template["job_configuration"]["job_manifest"]["spec"]["backoffLimit"] == 0
    assert f"WORKDIR {container['workingDir']}" in (FOLDER / "Dockerfile").read_text()


def test_the_page_explains_every_setting():
    page = (ROOT / "docs" / "scale.md").read_text()
    named = r"\b((?:MLML|PREFECT|MLFLOW)_[A-Z_]+|AWS_ENDPOINT_URL):"
    settings = {remote.SILENCE, *re.findall(named, (FOLDER / "compose.yaml").read_text())}
    hidden = {"MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "PREFECT_SERVER_ANALYTICS_ENABLED"}
    for setting in settings - hidden:
        assert f"`{setting}" in page, setting
    module, _, name = remote.DEPLOYMENT.rpartition(".")
    assert module == stage_flow.__name__
    assert hasattr(stage_flow, name)
