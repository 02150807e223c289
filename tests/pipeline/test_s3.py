"""DVC remote and checkpoints on storage that speaks S3: moto's server, on loopback."""

import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from machines import TEN_STAGES, Machines, serial_run
from project import Project

pytestmark = pytest.mark.soak

BUCKET = "shared"


@pytest.fixture
def endpoint(tmp_path):
    """Address of an S3 server with one bucket."""
    boto3 = pytest.importorskip("boto3")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path / "s3.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urlopen(f"{url}/moto-api/", timeout=5).close()
                break
            except URLError:
                assert process.poll() is None, (tmp_path / "s3.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket=BUCKET)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def test_a_worker_takes_its_inputs_from_a_bucket_and_leaves_its_outputs_there(
    endpoint, environment, tmp_path, tmp_path_factory
):
    project = Project(tmp_path / "coordinator", environment)
    project.declare(TEN_STAGES)
    machines = Machines(
        project,
        tmp_path,
        {"url": f"s3://{BUCKET}/dvc", "endpointurl": endpoint},
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_ENDPOINT_URL=endpoint,
        MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db",
        MLML_CHECKPOINT_REMOTE=f"s3://{BUCKET}/checkpoints",
    )
    with machines.worker("ada", "s3"):
        assert "4 ran" in project.run("mlml", "repro", "probe@rotation_knn", "--pool", "s3")
    assert machines.left_behind() == serial_run(
        tmp_path_factory.mktemp("serial"), environment, TEN_STAGES, "probe@rotation_knn"
    )
    assert "checkpoints are not" not in machines.log("ada")
    model = project.lock()["pretext@rotation"]["outs"][0]["md5"]
    program = (
        "import boto3, json; client = boto3.client('s3')\n"
        f"found = client.list_objects_v2(Bucket={BUCKET!r})['Contents']\n"
        "print(json.dumps([one['Key'] for one in found]))"
    )
    keys = project.run("python", "-c", program)
    assert f"dvc/files/md5/{model[:2]}/{model[2:]}" in keys
    assert "dvc/runs/" in keys
    assert "checkpoints/" not in keys  # the stage has finished
