"""launch/jobset*.yaml, sky.yaml and the Dockerfiles: valid, and in agreement with exit codes, files and extras."""

import copy
import json
import re

import fastjsonschema
import pytest
import yaml

from tests.support.paths import ROOT

LAUNCH = ROOT / "launch"
SCHEMA = json.loads((ROOT / "tests" / "launch" / "jobset_schema.json").read_text())
VALIDATE = fastjsonschema.compile(SCHEMA)
MANIFESTS = ("jobset.yaml", "jobset_gpu.yaml")


def jobset(name: str) -> dict:
    documents = yaml.safe_load_all((LAUNCH / name).read_text())
    return next(document for document in documents if document["kind"] == "JobSet")


def job(manifest: dict) -> dict:
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_jobset_is_valid(name):
    VALIDATE(jobset(name))


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_restart_after_75_and_the_run_fails_after_2(name):
    manifest = jobset(name)
    rules = job(manifest)["podFailurePolicy"]["rules"]
    containers = {container["name"] for container in job(manifest)["template"]["spec"]["containers"]}
    assert {rule["action"]: rule["onExitCodes"]["values"] for rule in rules} == {"Ignore": [75], "FailJob": [2]}
    assert {rule["onExitCodes"]["containerName"] for rule in rules} == containers
    (rule,) = manifest["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_each_pod_has_an_index_and_all_run_at_once(name):
    spec = job(jobset(name))
    assert spec["completionMode"] == "Indexed" and spec["parallelism"] == spec["completions"]


def test_gpus_are_one_job_with_an_account_that_may_read_pods_and_jobs():
    documents = list(yaml.safe_load_all((LAUNCH / "jobset_gpu.yaml").read_text()))
    by_kind = {document["kind"]: document for document in documents}
    (replicated,) = by_kind["JobSet"]["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    account = by_kind["ServiceAccount"]["metadata"]["name"]
    assert job(by_kind["JobSet"])["template"]["spec"]["serviceAccountName"] == account
    assert by_kind["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert by_kind["RoleBinding"]["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]
    readable = {name for rule in by_kind["Role"]["rules"] for name in rule["resources"] if "list" in rule["verbs"]}
    assert readable >= {"pods", "jobs"}


@pytest.mark.parametrize(
    "edit",
    [
        lambda spec: spec.update(paralellism=2),
        lambda spec: spec["template"]["spec"].update(restartPolicy="OnFailure"),  # not with a podFailurePolicy
        lambda spec: spec["podFailurePolicy"]["rules"][0].update(action="Restart"),
        lambda spec: spec["podFailurePolicy"]["rules"][0]["onExitCodes"].update(values=["75"]),
    ],
)
def test_the_schema_refuses_mistakes(edit):
    manifest = copy.deepcopy(jobset("jobset.yaml"))
    edit(job(manifest))
    with pytest.raises(fastjsonschema.JsonSchemaException):
        VALIDATE(manifest)


SKY = {  # the fields of SkyPilot 0.14 that launch/sky.yaml uses; its own parser accepts them too
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "workdir": {"const": "."},
        "num_nodes": {"type": "integer", "minimum": 1},
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "accelerators": {"type": "string"},
                "accelerator_args": {"type": "object"},
                "use_spot": {"type": "boolean"},
                "job_recovery": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "max_restarts_on_errors": {"type": "integer", "minimum": 0},
                        "recover_on_exit_codes": {"type": "array", "items": {"type": "integer", "maximum": 255}},
                    },
                },
            },
        },
        "envs": {"type": "object", "additionalProperties": {"type": "string"}},
        "setup": {"type": "string"},
        "run": {"type": "string"},
    },
}


def test_sky_is_valid_for_gpus_and_tpus():
    text = (LAUNCH / "sky.yaml").read_text()
    tpu = re.sub(r"^  accelerators: H100:8\n", "", text, flags=re.M).replace("  # accelerator", "  accelerator")
    validate = fastjsonschema.compile(SKY)
    gpu_task, tpu_task = validate(yaml.safe_load(text)), validate(yaml.safe_load(tpu))
    assert gpu_task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert tpu_task["resources"]["accelerators"].startswith("tpu-") and tpu_task["resources"]["accelerator_args"]


@pytest.mark.parametrize("name", ["Dockerfile.gpu", "Dockerfile.tpu"])
def test_images_have_a_pinned_base_another_user_than_root_and_files_that_exist(name):
    lines = (LAUNCH / name).read_text().splitlines()
    (base,) = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base)
    (user,) = [line.split()[1] for line in lines if line.startswith("USER")]
    assert int(user) > 0
    copied = [line.split()[2:-1] for line in lines if line.startswith("COPY")]
    assert all((ROOT / source).exists() for sources in copied for source in sources)
    extras = re.search(r"'\.\[(.*?)\]'", "\n".join(lines)).group(1).split(",")
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.M)
    assert set(extras) <= set(known)
