"""What infra/ has for Kubernetes and SLURM, as far as it can be told without either: schemas, references, networks, limits, settings."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dask.utils import parse_bytes, parse_timedelta
from distributed.cli.dask_scheduler import main as scheduler_command
from distributed.cli.dask_worker import main as worker_command

from flows.clusters import WORKER_ENVIRONMENT, ClusterSettings
from flows.settings import JobSettings, load_settings
from mammo_etl.settings import SourceSettings

INFRA = Path(__file__).resolve().parent.parent / "infra"
KUBERNETES = INFRA / "kubernetes"
BASE = KUBERNETES / "base"
SETTINGS = sorted((INFRA / "settings").glob("*.toml"))
SCRIPTS = sorted((INFRA / "slurm").glob("*.sbatch"))

VERSIONS = {"files": "1.29", "base": "1.37", "overlays/volume": "1.29", "overlays/trial": "1.37"}
"""Of Kubernetes, the oldest and the newest that the manifests are for; each folder by one of them, as it takes seconds."""
OPERATOR_VERSION = "1.25"
"""The CRD of Dask's operator (dask-kubernetes 2026.3.0) has the PodSpec and ServiceSpec of Kubernetes 1.21.1; the nearest that there is a schema of."""

Document = dict[str, Any]


def read(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@dataclass(frozen=True)
class Pod:
    """A pod that a document has started."""

    name: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    replicas: int
    ends: bool

    @property
    def containers(self) -> list[Document]:
        return [*self.spec["containers"], *self.spec.get("initContainers", [])]

    def is_selected(self, selector: Mapping[str, Any]) -> bool:
        assert set(selector) <= {"matchLabels"}, selector
        return selector.get("matchLabels", {}).items() <= self.labels.items()

    def ports(self) -> set[int]:
        return {port["containerPort"] for container in self.containers for port in container.get("ports", [])}


@dataclass(frozen=True)
class Manifests:
    """All documents of a kustomization, for a version of Kubernetes."""

    documents: Sequence[Document]
    version: str

    def of(self, *kinds: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] in kinds]

    def names(self, kind: str) -> set[str]:
        return {document["metadata"]["name"] for document in self.of(kind)}

    def pods(self) -> list[Pod]:
        pods = []
        for document in self.of("Deployment", "StatefulSet", "Job"):
            template, name = document["spec"]["template"], document["metadata"]["name"]
            replicas = document["spec"].get("replicas", 1)
            pods.append(
                Pod(name, template["metadata"]["labels"], template["spec"], replicas, document["kind"] == "Job")
            )
        for document in self.of("DaskCluster"):
            name = document["metadata"]["name"]
            for part in ("scheduler", "worker"):
                told = document["spec"][part]
                # Those that the operator adds.
                labels = {"dask.org/cluster-name": name, "dask.org/component": part, **told["metadata"]["labels"]}
                pods.append(Pod(f"{name}-{part}", labels, told["spec"], told.get("replicas", 1), False))
        return pods

    def pod(self, name: str) -> Pod:
        (pod,) = [pod for pod in self.pods() if pod.name == name]
        return pod

    def services(self) -> list[Document]:
        """Specs, that of the operator's Service among them."""
        clusters = [document["spec"]["scheduler"]["service"] for document in self.of("DaskCluster")]
        return [*(document["spec"] for document in self.of("Service")), *clusters]


def literals(generator: Document) -> dict[str, str]:
    """What stands in the kustomization itself of a ConfigMap that is made by it."""
    return dict(each.split("=", 1) for each in generator.get("literals", []))


@pytest.fixture(params=list(VERSIONS), scope="module")
def manifests(request: pytest.FixtureRequest) -> Manifests:
    """The files of the base as they are, and what kustomize makes of each folder, where kubectl, which has it, is installed."""
    if request.param == "files":
        kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
        made = [
            {"kind": "ConfigMap", "metadata": each, "data": literals(each)}
            for each in kustomization["configMapGenerator"]
        ]
        resources = [document for name in kustomization["resources"] for document in read(BASE / name)]
        return Manifests([*resources, *made], VERSIONS[request.param])
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", KUBERNETES / request.param]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return Manifests([document for document in yaml.safe_load_all(done.stdout) if document], VERSIONS[request.param])


@pytest.fixture(scope="module")
def base() -> Manifests:
    """The files of the base as they are."""
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    return Manifests([document for name in kustomization["resources"] for document in read(BASE / name)], "")


def is_made(document: Document) -> bool:
    """Whether it stands for a ConfigMap that kustomize is to make."""
    return "apiVersion" not in document


# Schemas and references


def test_the_api_takes_each_manifest(manifests: Manifests) -> None:
    checked = 0
    for document in manifests.documents:
        if document["kind"] != "DaskCluster" and not is_made(document):
            kubernetes_validate.validate(document, manifests.version, strict=True)
            checked += 1
    assert checked > 20


def test_dask_s_operator_takes_its_cluster(manifests: Manifests) -> None:
    """By the CRD's own part (templates.yaml of dask_kubernetes.operator.customresources) and the parts of Kubernetes that it refers to."""
    (cluster,) = manifests.of("DaskCluster")
    assert cluster["apiVersion"] == "kubernetes.dask.org/v1"
    assert set(cluster["spec"]) <= {"idleTimeout", "scheduler", "worker"}
    scheduler, worker = cluster["spec"]["scheduler"], cluster["spec"]["worker"]
    assert {"spec", "service"} <= set(scheduler) <= {"metadata", "spec", "service"}
    assert {"spec"} <= set(worker) <= {"replicas", "metadata", "spec"}
    for part in (scheduler, worker):
        assert set(part["metadata"]) <= {"labels", "annotations"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **part["metadata"]}, "spec": part["spec"]}
        kubernetes_validate.validate(pod, OPERATOR_VERSION, strict=True)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": scheduler["service"]}
    kubernetes_validate.validate(service, OPERATOR_VERSION, strict=True)
    assert scheduler["service"]["selector"] == {
        "dask.org/cluster-name": cluster["metadata"]["name"],
        "dask.org/component": "scheduler",
    }


def named_by(value: Any) -> Iterator[str]:
    """Every text within a kustomization."""
    if isinstance(value, Mapping):
        for below in value.values():
            yield from named_by(below)
    elif isinstance(value, list):
        for below in value:
            yield from named_by(below)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("folder", ["base", "overlays/volume", "overlays/trial"])
def test_a_kustomization_names_every_file_of_its_folder(folder: str) -> None:
    kustomization = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())
    files = {path.name for path in (KUBERNETES / folder).iterdir()} - {"kustomization.yaml"}
    assert files == {text for text in named_by(kustomization) if text.endswith((".yaml", ".toml"))}


def test_what_pods_refer_to_is_there_or_asked_for(manifests: Manifests) -> None:
    example = read(KUBERNETES / "secrets.example.yaml")
    secrets = {document["metadata"]["name"]: set(document["stringData"]) for document in example}
    # Made of files, by the command that stands there.
    made = re.search(r"create secret generic (\S+) (.*)", (KUBERNETES / "secrets.example.yaml").read_text())
    assert made
    secrets[made[1]] = {Path(name).name for name in re.findall(r"--from-file=(\S+)", made[2])}
    for pod in manifests.pods():
        assert pod.spec["serviceAccountName"] in manifests.names("ServiceAccount")
        for container in pod.containers:
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    assert source["secretRef"]["name"] in secrets
                else:
                    assert source["configMapRef"]["name"] in manifests.names("ConfigMap")
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    reference = variable["valueFrom"]["secretKeyRef"]
                    assert reference["key"] in secrets[reference["name"]]
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            claims = {"data"} if pod.name == "postgres" else set()
            assert mounts <= {volume["name"] for volume in pod.spec["volumes"]} | claims
        used = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", [])}
        for volume in pod.spec["volumes"]:
            assert volume["name"] in used
            if "configMap" in volume:
                assert volume["configMap"]["name"] in manifests.names("ConfigMap")
            elif "secret" in volume:
                assert volume["secret"]["secretName"] in secrets
            elif "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in manifests.names("PersistentVolumeClaim")
            else:
                assert "sizeLimit" in volume["emptyDir"]


def test_whoever_works_in_the_workspace_reaches_it_and_no_more(manifests: Manifests) -> None:
    """By keys of the store, or in a part of the volume that all share; the deploy Job looks whether films are there."""
    claims = manifests.names("PersistentVolumeClaim")
    workspace, scores = (
        {"name": "data", "mountPath": f"/data/{part}", "subPath": part} for part in ("workspace", "scores")
    )
    films = {"name": "data", "mountPath": "/data/sources", "subPath": "sources", "readOnly": True}
    builds = ("store-etl", [workspace, scores, films])
    roles = {
        "etl-worker": builds,
        "dask-worker": builds,
        "train-worker": ("store-train", [workspace]),
        "deploy": (None, [films]),
    }
    for pod in manifests.pods():
        secret, parts = roles.get(pod.name, (None, []))
        keys = {each["secretRef"]["name"] for each in pod.containers[0].get("envFrom", []) if "secretRef" in each}
        assert keys == ({secret} if secret and not claims else set()), pod.name
        mounts = [mount for container in pod.containers for mount in container.get("volumeMounts", [])]
        if pod.name != "postgres":
            assert [mount for mount in mounts if mount["name"] == "data"] == (parts if claims else []), pod.name


def check_sources(places: Mapping[str, str], deploy: Pod) -> None:
    args = deploy.containers[0]["args"]
    given = [args[number + 1] for number, word in enumerate(args) if word == "--source"]
    sources = [SourceSettings.parse(places[name.removeprefix("$(").removesuffix(")")]) for name in given]
    # CBIS-DDSM has no normal case; DDSM's others would be its films again.
    assert [source.kind for source in sources] == ["cbis-ddsm", "ddsm"]
    assert sources[1].path.endswith("/cases/normals")
    # In a bucket, or where the pods have the volume.
    if places["WORKSPACE"].startswith("s3://"):
        assert all(source.path.startswith("s3://") for source in sources)
    else:
        assert places["WORKSPACE"] == "/data/workspace"
        assert all(source.path.startswith("/data/sources/") for source in sources)


def test_builds_have_cases_with_lesions_and_normal_ones(manifests: Manifests) -> None:
    (places,) = [document["data"] for document in manifests.of("ConfigMap") if "WORKSPACE" in document["data"]]
    assert places["WORKSPACE"].startswith("/") == bool(manifests.names("PersistentVolumeClaim"))
    check_sources(places, manifests.pod("deploy"))


def test_builds_have_both_on_the_volume(base: Manifests) -> None:
    """By the overlay's file, as kustomize, which puts it over the base's, may not be there."""
    (generator,) = yaml.safe_load((KUBERNETES / "overlays/volume/kustomization.yaml").read_text())["configMapGenerator"]
    assert literals(generator)["WORKSPACE"].startswith("/")
    check_sources(literals(generator), base.pod("deploy"))


def test_a_volume_s_owner_is_changed_once(manifests: Manifests) -> None:
    """Not file by file at each start of a pod, where it is right already."""
    for pod in manifests.pods():
        assert pod.spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch", pod.name


def test_there_is_no_secret_but_placeholders(manifests: Manifests) -> None:
    assert not manifests.of("Secret")
    for document in read(KUBERNETES / "secrets.example.yaml"):
        assert {value.removeprefix("mammo:") for value in document["stringData"].values()} == {"REPLACE"}


def test_every_name_that_a_pod_asks_is_a_service(manifests: Manifests) -> None:
    clusters = {f"{name}-scheduler" for name in manifests.names("DaskCluster")}
    ports = {
        **{each["metadata"]["name"]: each["spec"]["ports"] for each in manifests.of("Service")},
        **dict.fromkeys(clusters, manifests.of("DaskCluster")[0]["spec"]["scheduler"]["service"]["ports"]),
    }
    asked = [
        found
        for pod in manifests.pods()
        for container in pod.containers
        for variable in container.get("env", [])
        for found in re.findall(r"(?:http|tls)://([\w-]+):(\d+)", variable.get("value", ""))
    ]
    asked += re.findall(r"tls://([\w-]+):(\d+)", load_settings(BASE / "settings.toml", []).cluster.address or "")
    assert {host for host, _ in asked} == {"prefect-server", "dask-scheduler"}
    for host, port in asked:
        assert int(port) in {each["port"] for each in ports[host]}


# Who reaches whom


def test_a_service_leads_to_a_port_of_a_pod_and_not_out_of_the_cluster(manifests: Manifests) -> None:
    for service in manifests.services():
        assert service.get("type", "ClusterIP") == "ClusterIP"
        assert not {"externalIPs", "loadBalancerIP"} & set(service)
        (pod,) = [pod for pod in manifests.pods() if pod.is_selected({"matchLabels": service["selector"]})]
        names = {port["name"] for container in pod.containers for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["ports"]} <= names
        assert not any("nodePort" in port for port in service["ports"])
    assert not manifests.of("Ingress", "HTTPRoute")
    (quota,) = manifests.of("ResourceQuota")
    assert quota["spec"]["hard"]["services.loadbalancers"] == quota["spec"]["hard"]["services.nodeports"] == "0"


def test_pods_do_not_share_the_node(manifests: Manifests) -> None:
    for pod in manifests.pods():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec)
        assert not any("hostPath" in volume for volume in pod.spec["volumes"])
        assert not any("hostPort" in port for container in pod.containers for port in container.get("ports", []))


def ways(manifests: Manifests, direction: str) -> set[tuple[str, str, int]]:
    """Of all rules of one direction between pods: who asks whom at which port."""
    found = set()
    pods = manifests.pods()
    for policy in manifests.of("NetworkPolicy"):
        for rule in policy["spec"].get(direction, []):
            ports = {
                port
                for told in rule["ports"]
                for port in range(told["port"], told.get("endPort", told["port"]) + 1)
                if told["protocol"] == "TCP"
            }
            for peer in rule["to" if direction == "egress" else "from"]:
                if "podSelector" not in peer:
                    continue
                assert peer["podSelector"].get("matchLabels"), policy["metadata"]["name"]
                own = [pod for pod in pods if pod.is_selected(policy["spec"]["podSelector"])]
                others = [pod for pod in pods if pod.is_selected(peer["podSelector"])]
                assert own, policy["metadata"]["name"]
                assert others, policy["metadata"]["name"]
                askers, answerers = (own, others) if direction == "egress" else (others, own)
                found |= {
                    (asker.name, answerer.name, port) for asker in askers for answerer in answerers for port in ports
                }
    return found


def test_whoever_may_ask_is_answered_and_nobody_else(manifests: Manifests) -> None:
    out, into = ways(manifests, "egress"), ways(manifests, "ingress")
    assert out == into
    clients = {(name, "prefect-server", 4200) for name in ("deploy", "etl-worker", "train-worker")}
    flows = {(name, "dask-scheduler", 8786) for name in ("dask-worker", "etl-worker")}
    workers = {(name, "dask-worker", port) for name in ("dask-worker", "dask-scheduler") for port in (8789, 8790)}
    assert out == clients | flows | workers | {("prefect-server", "postgres", 5432)}
    pods = {pod.name: pod for pod in manifests.pods()}
    for _, answerer, port in out:
        assert port in pods[answerer].ports()


def test_all_else_is_denied(manifests: Manifests) -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in manifests.of("NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = {label for pod in manifests.pods() for label in pod.labels if label.startswith("mammo/")}
    selected = set()
    for name, policy in policies.items():
        assert any(pod.is_selected(policy["podSelector"]) for pod in manifests.pods()), name
        selected |= set(policy["podSelector"].get("matchLabels", {}))
        for rule in [*policy.get("egress", []), *policy.get("ingress", [])]:
            # A rule without either would be one for all.
            assert rule.get("to") or rule.get("from")
            assert rule["ports"]
            for peer in [*rule.get("to", []), *rule.get("from", [])]:
                assert peer.get("podSelector") or peer.get("namespaceSelector") or peer["ipBlock"]["except"], name
    # Names, Prometheus, and Dask's operator.
    named = set(re.findall(r"kubernetes.io/metadata.name': '([\w-]+)'", str(policies)))
    assert named == {"kube-system", "monitoring", "dask-operator"}
    # Each label that asks for something has a rule that gives it.
    assert labels <= selected
    outside = {
        pod.name
        for name, policy in policies.items()
        for rule in policy.get("egress", [])
        if any("ipBlock" in peer for peer in rule["to"])
        for pod in manifests.pods()
        if pod.is_selected(policy["podSelector"])
    }
    # Those that read the store, and the server's webhook.
    keys = {pod.name for pod in manifests.pods() for each in pod.containers if "store" in str(each.get("envFrom"))}
    assert outside == {*keys, "prefect-server"}


def test_dask_s_operator_reaches_the_scheduler_s_dashboard_and_no_more(manifests: Manifests) -> None:
    """It asks there before it takes workers away, and where its request is dropped it takes none (retire_workers of dask-kubernetes 2026.3.0)."""
    operator = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "dask-operator"}}}
    reached = [
        (pod.name, port["protocol"], port["port"])
        for policy in manifests.of("NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        if operator in rule["from"]
        for pod in manifests.pods()
        if pod.is_selected(policy["spec"]["podSelector"])
        for port in rule["ports"]
    ]
    assert reached == [("dask-scheduler", "TCP", 8787)]


# What a pod may do


def test_pods_have_no_more_rights_than_they_need(manifests: Manifests) -> None:
    for account in manifests.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for pod in manifests.pods():
        assert pod.spec["automountServiceAccountToken"] is False
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
    (namespace,) = manifests.of("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert not manifests.of("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")


def test_images_are_named_by_kustomize_alone(base: Manifests) -> None:
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    set_there = {image["name"]: image for image in kustomization["images"]}
    assert {container["image"] for pod in base.pods() for container in pod.containers} == set(set_there)
    for image in set_there.values():
        assert image.get("newTag") != "latest"
        assert image.get("newTag") or image.get("digest")


def test_no_image_is_the_latest(manifests: Manifests, request: pytest.FixtureRequest) -> None:
    if "files" in request.node.name:
        pytest.skip("kustomize has not been at it")
    for pod in manifests.pods():
        for container in pod.containers:
            found = re.fullmatch(r"([\w./-]+)(?::([\w.-]+))?(?:@(sha256:\w{64}))?", container["image"])
            assert found
            name, tag, digest = found.groups()
            assert name in {"mammo-cpu", "mammo-train", "postgres"}
            assert tag or digest
            assert tag != "latest"


def amount(text: str) -> float:
    """Cores, bytes or pieces: Kubernetes' notation."""
    return float(text[:-1]) / 1000 if text.endswith("m") else float(parse_bytes(text))


def test_the_quota_holds_all_pods(manifests: Manifests) -> None:
    (quota,) = manifests.of("ResourceQuota")
    hard = {name: amount(value) for name, value in quota["spec"]["hard"].items()}
    total: dict[str, float] = dict.fromkeys(hard, 0)
    for pod in manifests.pods():
        total["pods"] += pod.replicas
        for container in pod.containers:
            asked, most = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(asked) & set(most)
            # More than was asked for may be taken back by killing.
            assert asked["memory"] == most["memory"]
            for name, resources in (("requests", asked), ("limits", most)):
                for kind in ("cpu", "memory"):
                    total[f"{name}.{kind}"] += pod.replicas * amount(resources[kind])
            total["requests.nvidia.com/gpu"] += pod.replicas * amount(most.get("nvidia.com/gpu", "0"))
    templates = [claim for each in manifests.of("StatefulSet") for claim in each["spec"]["volumeClaimTemplates"]]
    for claim in [*templates, *manifests.of("PersistentVolumeClaim")]:
        total["requests.storage"] += amount(claim["spec"]["resources"]["requests"]["storage"])
    assert {name: (total[name], hard[name]) for name in hard if total[name] > hard[name]} == {}
    (limits,) = manifests.of("LimitRange")
    (container,) = limits["spec"]["limits"]
    largest = max(amount(each["resources"]["limits"]["memory"]) for pod in manifests.pods() for each in pod.containers)
    assert largest <= amount(container["max"]["memory"])


def test_what_runs_for_ever_is_asked_how_it_is(manifests: Manifests) -> None:
    for pod in manifests.pods():
        for container in pod.containers:
            probes = [name for name in container if name.endswith("Probe")]
            assert bool(probes) != pod.ends
            ports = {port["name"] for port in container.get("ports", [])}
            for name in probes:
                probe = container[name]
                assert "exec" in probe or probe["httpGet"]["port"] in ports


def test_the_training_s_worker_has_the_gpu(base: Manifests) -> None:
    holders = [
        (pod.name, container["name"])
        for pod in base.pods()
        for container in pod.containers
        if "nvidia.com/gpu" in container["resources"]["limits"]
    ]
    assert holders == [("train-worker", "worker")]
    assert base.pod("train-worker").spec["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]


def test_a_budget_is_of_pods_of_which_there_are_several(manifests: Manifests) -> None:
    for budget in manifests.of("PodDisruptionBudget"):
        replicas = sum(pod.replicas for pod in manifests.pods() if pod.is_selected(budget["spec"]["selector"]))
        assert replicas > budget["spec"]["maxUnavailable"] >= 1


# What runs in them


def test_dask_is_set_up_as_a_cluster_of_the_job_s_own_is(base: Manifests) -> None:
    (config,) = read(BASE / "dask.yaml")
    distributed = config["distributed"]
    assert distributed["nanny"]["pre-spawn-environ"] == WORKER_ENVIRONMENT
    assert distributed["scheduler"]["allowed-failures"] == 1
    assert distributed["scheduler"]["no-workers-timeout"] == "300 s"
    assert distributed["comm"]["require-encryption"] is True
    for name in ("etl-worker", "dask-scheduler", "dask-worker"):
        container = base.pod(name).containers[0]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in base.pod(name).spec["volumes"]}
        assert {"name": "DASK_CONFIG", "value": "/etc/dask/dask.yaml"} in container["env"]
        assert volumes[mounts["/etc/dask"]]["configMap"]["name"] == "dask"
        assert volumes[mounts["/certificates"]]["secret"]["secretName"] == "dask-tls"
    # Whoever has the certificates can run code in the workers.
    holders = {pod.name for pod in base.pods() if "dask-tls" in str(pod.spec["volumes"])}
    assert holders == {"etl-worker", "dask-scheduler", "dask-worker"}
    tls = distributed["comm"]["tls"]
    assert {tls["ca-file"], *(value for role in ("scheduler", "worker", "client") for value in tls[role].values())} == {
        f"/certificates/{name}.pem" for name in ("ca", "cert", "key")
    }


def test_dask_s_commands_know_their_arguments(base: Manifests) -> None:
    scheduler, worker = (base.pod(f"dask-{name}").containers[0] for name in ("scheduler", "worker"))
    assert scheduler["args"][:2] == ["dask", "scheduler"]
    told = scheduler_command.make_context("scheduler", scheduler["args"][2:]).params
    assert (told["protocol"], told["port"], told["dashboard_address"]) == ("tls", "8786", ":8787")
    assert worker["args"][:2] == ["dask", "worker"]
    told = worker_command.make_context("worker", worker["args"][2:]).params
    assert (told["protocol"], told["n_workers"], told["nthreads"]) == ("tls", "1", 1)
    assert {told["worker_port"], told["nanny_port"], told["dashboard_address"]} == {"8789", "8790", ":8788"}
    # Else the operator has workers ask without TLS.
    assert {"name": "DASK_SCHEDULER_ADDRESS", "value": "tls://dask-scheduler:8786"} in worker["env"]
    # Room for the nanny, which is not in the limit.
    assert amount(worker["resources"]["limits"]["memory"]) - parse_bytes(told["memory_limit"]) > 300e6


def test_the_worker_s_metrics_are_served_beside_it(manifests: Manifests) -> None:
    for name in ("etl-worker", "train-worker"):
        worker, metrics = manifests.pod(name).spec["containers"]
        folder = {"name": "PROMETHEUS_MULTIPROC_DIR", "value": "/metrics"}
        for container in (worker, metrics):
            assert folder in container["env"]
            assert {"name": "metrics", "mountPath": "/metrics"} in container["volumeMounts"]
        assert worker["args"][:6] == ["prefect", "worker", "start", "--pool", f"mammo-{name.split('-')[0]}", "--type"]
        assert metrics["args"] == ["mammo", "ops", "metrics", "--host", "0.0.0.0", "--port", "9300"]


# Settings and SLURM


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.stem)
def test_settings_load_and_say_only_what_differs(path: Path) -> None:
    cluster = load_settings(path, []).cluster
    assert load_settings(path, []) == JobSettings(cluster=cluster)
    default = ClusterSettings()
    assert all(getattr(cluster, name) != getattr(default, name) for name in cluster.model_fields_set)


def test_there_are_settings_for_each_place() -> None:
    assert [path.stem for path in SETTINGS] == ["kubernetes", "laptop", "slurm", "workstation"]
    assert load_settings(INFRA / "settings" / "kubernetes.toml", []).cluster.address == "tls://dask-scheduler:8786"


def test_jobqueue_makes_the_workers_job(tmp_path: Path) -> None:
    from dask_jobqueue import SLURMCluster

    options = load_settings(INFRA / "settings" / "slurm.toml", []).cluster.options
    # What a site adapts.
    here = {"interface": "lo", "shared_temp_directory": str(tmp_path), "log_directory": str(tmp_path)}
    with SLURMCluster(**{**options, **here}) as cluster:
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
        script = cluster.job_script()
    script_file = tmp_path / "job.sh"
    script_file.write_text(script)
    subprocess.run(["bash", "-n", script_file], check=True)
    assert {"#SBATCH -p normal", "#SBATCH -n 1", "#SBATCH --cpus-per-task=1", "#SBATCH -t 04:00:00"} <= set(
        script.splitlines()
    )
    (started,) = [line for line in script.splitlines() if "dask_worker" in line]
    told = worker_command.make_context("worker", shlex.split(started)[3:]).params
    assert (told["nthreads"], told["nanny"], told["protocol"]) == (1, True, "tls://")
    assert told["tls_cert"]
    assert told["tls_key"]
    # Before its job's time is over.
    assert parse_timedelta(told["lifetime"]) + parse_timedelta(told["lifetime_stagger"]) < 4 * 3600
    exported = dict(
        assignment.split("=")
        for line in script.splitlines()
        if line.startswith("export ")
        for assignment in line.split()[1:]
    )
    assert exported == WORKER_ENVIRONMENT


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_for_slurm_are_right(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    lines = path.read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    # Below its first command sbatch reads none.
    assert directives[-1] < min(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    told = dict(re.fullmatch(r"#SBATCH --([\w-]+)=?(\S*)", lines[number]).groups() for number in directives)  # type: ignore[union-attr]
    assert {"job-name", "partition", "cpus-per-task", "mem", "time", "output", "requeue"} <= set(told)
    assert ("gres" in told) == (path.stem == "train")
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("script", "given", "expected"),
    [
        ("build", ["mini-mias=/d/a b.zip", "ddsm=/d"], "--source mini-mias=/d/a b.zip --source ddsm=/d"),
        ("train", ["--epochs", "3"], "--epochs 3"),
    ],
)
def test_a_script_runs_the_command(tmp_path: Path, script: str, given: list[str], expected: str) -> None:
    """By commands that only say how they were called."""
    for name in ("mammo", "nvidia-smi"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $*"; echo "home $PREFECT_HOME"\n')
        (tmp_path / name).chmod(0o755)
    for venv in ("venv", "venv-gpu"):
        (tmp_path / venv / "bin").mkdir(parents=True)
        (tmp_path / venv / "bin" / "activate").touch()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "MAMMO": str(tmp_path)}
    command = ["bash", INFRA / "slurm" / f"{script}.sbatch"]
    done = subprocess.run([*command, *given], env=environment, capture_output=True, text=True, check=True)
    *_, called, home = done.stdout.splitlines()
    assert called.startswith(f"mammo {script} --workspace {tmp_path}/workspace")
    assert called.endswith(expected)
    assert not Path(home.removeprefix("home ")).exists()
    if script == "build":
        assert (tmp_path / "certificates").stat().st_mode & 0o777 == 0o700
        assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 2
