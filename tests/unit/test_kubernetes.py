"""The manifests of deploy/kubernetes: what Kubernetes takes, and what the image and the service really are."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from openride_analytics import config
from openride_analytics.http import health
from tests.integration.running import STOP_SECONDS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
# The oldest that the page names, and the newest whose schemas are known.
KUBERNETES = ("1.27", "1.37")
OF_KUSTOMIZE = "kustomize.config.k8s.io/"
OF_OPERATORS = ("monitoring.coreos.com/",)


def documents(*files: Path) -> list[dict[str, Any]]:
    return [
        document
        for file in files
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if document
    ]


MANIFESTS = [
    document
    for document in documents(*sorted(FOLDER.rglob("*.yaml")))
    if not document["apiVersion"].startswith(OF_KUSTOMIZE)
]
(DEPLOYMENT,) = (each for each in MANIFESTS if each["kind"] == "Deployment")
POD: dict[str, Any] = DEPLOYMENT["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
PROBES = [CONTAINER[f"{name}Probe"] for name in ("startup", "liveness", "readiness")]
# As kustomize reads it.
SECRET = dict(
    line.split("=", 1)
    for line in (FOLDER / "example" / "secret.env").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)


def kind(name: str) -> dict[str, Any]:
    (found,) = (each for each in MANIFESTS if each["kind"] == name)
    return found


def of_the_image(name: str) -> str:
    (value,) = re.findall(rf"^(?:ENV|   ) (?:.*\s)?{name}=(\S+)", DOCKERFILE, re.MULTILINE)
    return str(value)


def effective() -> config.Config:
    """What the service makes of the ConfigMap and the Secret, in the image's environment."""
    environment = {"OPENRIDE_STORAGE__DATA_DIR": of_the_image("OPENRIDE_STORAGE__DATA_DIR"), **SECRET}
    return config.load(FOLDER / "base" / "config.toml", environment)


def assert_valid(document: dict[str, Any]) -> None:
    if document["apiVersion"].startswith(OF_OPERATORS):
        return
    for version in KUBERNETES:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: str(each["kind"]))
def test_kubernetes_knows_each_field(manifest: dict[str, Any]) -> None:
    assert_valid(manifest)


def test_a_field_that_kubernetes_does_not_know_is_noticed() -> None:
    wrong = {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        assert_valid(wrong)


def test_every_file_is_part_of_what_is_installed() -> None:
    for folder in (each for each in FOLDER.iterdir() if each.is_dir()):
        (kustomization,) = documents(folder / "kustomization.yaml")
        named = [
            *kustomization.get("resources", []),
            *kustomization.get("components", []),
            *(name for each in kustomization.get("configMapGenerator", []) for name in each["files"]),
            *(name for each in kustomization.get("secretGenerator", []) for name in each["envs"]),
        ]
        assert all((folder / name).exists() for name in named), folder
        there = {each.name for each in folder.iterdir()} - {"kustomization.yaml"}
        assert there == {name for name in named if "/" not in name}


def test_all_selectors_find_the_pods() -> None:
    labels = POD["metadata"]["labels"].items()
    spread = POD["spec"]["topologySpreadConstraints"][0]["labelSelector"]
    selectors = [
        kind("Service")["spec"]["selector"],
        kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            each["matchLabels"]
            for each in (
                spread,
                *(
                    kind(name)["spec"]["selector"]
                    for name in ("Deployment", "PodDisruptionBudget", "PodMonitor")
                ),
            )
        ),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels
    assert kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"] == {
        "apiVersion": DEPLOYMENT["apiVersion"],
        "kind": "Deployment",
        "name": DEPLOYMENT["metadata"]["name"],
    }


def test_ports_are_those_of_the_configuration() -> None:
    server = effective().server
    assert {"http": server.port, "ops": server.ops_port} == PORTS
    assert (server.host, server.port) == ("0.0.0.0", 8097)
    annotations = POD["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(server.ops_port)
    assert [port["targetPort"] for port in kind("Service")["spec"]["ports"]] == ["http"]
    opened = [port["port"] for rule in kind("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
    assert opened == ["http", "ops"]
    (endpoint,) = kind("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("ops", annotations["prometheus.io/path"])


def test_probes_ask_what_the_service_answers_and_wait_longer_than_it_takes() -> None:
    live, ready = ({*handler.paths} for handler in (health.live, health.ready))
    startup, liveness, readiness = PROBES
    assert startup["httpGet"]["path"] in live
    assert liveness["httpGet"]["path"] in live
    assert readiness["httpGet"]["path"] in ready
    assert POD["metadata"]["annotations"]["prometheus.io/path"] in health.prometheus_metrics.paths
    assert all(probe["httpGet"]["port"] == "ops" for probe in PROBES)
    assert all(probe["timeoutSeconds"] <= probe["periodSeconds"] for probe in PROBES)
    # The service's own look at its servers takes up to 2 s.
    assert readiness["timeoutSeconds"] > 2
    # A loop that is busy for half a minute is no reason to lose what has been read.
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 30


def test_a_pod_is_given_the_time_that_it_takes_to_stop() -> None:
    drain = effective().server.drain_seconds
    # Taken out of service by then; what comes after it is bounded, and held by the tests of stopping.
    assert drain >= 5
    assert POD["spec"]["terminationGracePeriodSeconds"] >= drain + STOP_SECONDS


def test_an_update_takes_no_pod_away_before_its_successor_is_ready() -> None:
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert "replicas" not in DEPLOYMENT["spec"]
    autoscaler = kind("HorizontalPodAutoscaler")["spec"]
    assert 2 <= autoscaler["minReplicas"] < autoscaler["maxReplicas"]
    assert kind("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_configuration_is_accepted_and_holds_no_secret() -> None:
    shown = tomllib.loads((FOLDER / "base" / "config.toml").read_text(encoding="utf-8"))
    secret = {"url", *(key for key in config._SECRETS)}
    assert not secret & {key for section in shown.values() for key in section}
    settings = effective()
    assert settings.auth.enabled
    assert settings.log.format == "json"
    # Nothing is embedded: the image has no embedded stores.
    assert all((settings.clickhouse.url, settings.postgres.url, settings.redis.url))
    assert settings.kafka.bootstrap_servers
    # Several pods have one store of report files.
    assert settings.reports.s3_bucket


def test_pods_get_the_secret_and_the_configuration() -> None:
    (base,) = documents(FOLDER / "base" / "kustomization.yaml")
    (example,) = documents(FOLDER / "example" / "kustomization.yaml")
    assert CONTAINER["envFrom"] == [{"secretRef": {"name": example["secretGenerator"][0]["name"]}}]
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == base["configMapGenerator"][0]["name"]
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert f'"{mounts["config"]}/config.toml"' in DOCKERFILE
    for kustomization in (base, example):
        assert [(each["name"], each["newTag"]) for each in kustomization["images"]] == [
            (CONTAINER["image"], PROJECT["version"])
        ]


def test_a_pod_can_do_and_write_no_more_than_it_must() -> None:
    spec, security = POD["spec"], POD["spec"]["securityContext"]
    assert not spec["automountServiceAccountToken"]
    # Variables of other services' names would be taken for settings.
    assert not spec["enableServiceLinks"]
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}\n" in DOCKERFILE
    assert security["runAsNonRoot"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    empty = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume}
    writable = {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if mount["name"] in empty}
    assert writable == {"/tmp", effective().storage.data_dir}
    assert all(volume["sizeLimit"] for volume in empty.values())
    assert security["fsGroup"] == security["runAsGroup"]


def rendered() -> Iterator[dict[str, Any]]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl on this machine to put the manifests together with")
    done = subprocess.run(
        [kubectl, "kustomize", str(FOLDER / "example")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    yield from yaml.safe_load_all(done.stdout)


def test_the_example_is_put_together_as_a_whole() -> None:
    made = {document["kind"]: document for document in rendered()}
    assert made.keys() == {each["kind"] for each in MANIFESTS} | {"ConfigMap", "Secret"}
    for document in made.values():
        assert document["metadata"]["namespace"] == "openride"
        assert_valid(document)
    spec = made["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["image"] == f"registry.example.com/openride-analytics:{PROJECT['version']}"
    assert container["envFrom"][0]["secretRef"]["name"] == made["Secret"]["metadata"]["name"]
    assert made["ConfigMap"]["metadata"]["name"] in str(spec["volumes"])
    assert made["Secret"]["data"].keys() == SECRET.keys()


def gibibytes(quantity: str) -> float:
    number, unit = float(quantity[:-2]), quantity[-2:]
    return number * {"Mi": 1 / 1024, "Gi": 1.0}[unit]


def test_a_pod_has_room_for_what_it_was_measured_to_need() -> None:
    requests, limits = CONTAINER["resources"]["requests"], CONTAINER["resources"]["limits"]
    assert requests.keys() == {"cpu", "memory", "ephemeral-storage"}
    # None of CPU: throttled, the event loop answers no probe.
    assert limits.keys() == {"memory", "ephemeral-storage"}
    # Catching up at full rate; and with it four workbooks and two reports.
    assert gibibytes(requests["memory"]) >= 0.254
    assert gibibytes(limits["memory"]) >= 0.254 + 4 * 0.242 + 2 * 0.158
    empty = [volume["emptyDir"]["sizeLimit"] for volume in POD["spec"]["volumes"] if "emptyDir" in volume]
    assert gibibytes(limits["ephemeral-storage"]) > sum(map(gibibytes, empty))
