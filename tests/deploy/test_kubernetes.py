"""The manifests, by kustomize and Kubernetes' schemas; and what in one of them another relies on."""

from __future__ import annotations

import asyncio
import re

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator
from fastapi import FastAPI
from vllm_router.launch_router import parse_router_args

from deploy.kubernetes.rules import FILE, document
from steer_server.app import attach
from tests.deploy.conftest import Watched
from tests.support.deployed import DEPLOY, OVERLAYS, Document, container, manifest, manifests
from tests.support.prometheus import promtool

OPERATORS = {"PodMonitor": operator.PodMonitor, "PrometheusRule": operator.PrometheusRule}
VLLM_PATHS = {"/health", "/metrics"}
"""Of vLLM's own server."""
WORKLOADS = (("StatefulSet", "steer-server"), ("Deployment", "vllm-router"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_every_manifest_and_knows_every_field(overlay: str) -> None:
    kinds = set()
    for one in manifests(overlay):
        kinds.add(one["kind"])
        if one["kind"] in OPERATORS:
            # What the operator's model does not know is gone from what it gives back.
            model = OPERATORS[one["kind"]].model_validate(one)
            assert model.model_dump(by_alias=True, exclude_unset=True, mode="json") == one
        else:
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    assert kinds >= {
        *OPERATORS,
        *("StatefulSet", "Deployment", "Service", "Ingress", "NetworkPolicy", "PodDisruptionBudget"),
        *("HorizontalPodAutoscaler", "ConfigMap", "Role", "RoleBinding", "ServiceAccount", "Namespace"),
    }


def test_a_misspelt_field_is_found() -> None:
    broken = {**manifest("Service", "vllm-router"), "sepc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)
    monitor = manifest("PodMonitor", "steer-server")
    model = operator.PodMonitor.model_validate({**monitor, "spec": {**monitor["spec"], "selektor": {}}})
    assert model.model_dump(by_alias=True, exclude_unset=True, mode="json") == monitor


def test_the_rules_are_those_of_prometheus() -> None:
    assert FILE.read_text() == document(), "run `make rules`"
    rules = yaml.safe_dump(manifest("PrometheusRule", "steer-server")["spec"])
    promtool("check", "rules", "/dev/stdin", given=rules)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(("kind", "name"), WORKLOADS)
def test_what_a_pod_refers_to_is_there(overlay: str, kind: str, name: str) -> None:
    workload = manifest(kind, name, overlay)
    template = workload["spec"]["template"]
    only = container(kind, name, overlay)
    present = {(one["kind"], one["metadata"]["name"]) for one in manifests(overlay)}
    for source in only.get("envFrom", ()):
        if "configMapRef" in source:
            assert ("ConfigMap", source["configMapRef"]["name"]) in present
        else:
            example = yaml.safe_load((DEPLOY / "kubernetes" / "secret.example.yaml").read_text())
            assert source["secretRef"]["name"] == example["metadata"]["name"]
            assert example["metadata"]["namespace"] == workload["metadata"]["namespace"]
    volumes = {one["name"] for one in template["spec"].get("volumes", ())}
    volumes |= {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", ())}
    assert {one["name"] for one in only.get("volumeMounts", ())} == volumes
    assert workload["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    if account := template["spec"].get("serviceAccountName"):
        assert ("ServiceAccount", account) in present
    # Kubernetes' own variables for Services begin like settings, and an unknown setting stops the start.
    assert template["spec"]["enableServiceLinks"] is False
    assert only["image"].startswith("registry.example.com/")


def test_no_secret_is_applied() -> None:
    assert not [one for overlay in OVERLAYS for one in manifests(overlay) if one["kind"] == "Secret"]


@pytest.mark.parametrize(("kind", "name"), WORKLOADS)
def test_a_pod_has_the_time_to_drain(kind: str, name: str) -> None:
    only = container(kind, name)
    pause = int(only["lifecycle"]["preStop"]["exec"]["command"][-1])
    drain = [int(found) for found in re.findall(r"--shutdown-timeout=(\d+)", " ".join(only["args"]))]
    grace = manifest(kind, name)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > pause + max(drain, default=0)


def test_probes_ask_for_pages_that_there_are() -> None:
    app = FastAPI()
    attach(app)
    paths = {getattr(route, "path", "") for route in app.routes} | VLLM_PATHS
    only = container("StatefulSet", "steer-server")
    ports = {one["name"] for one in only["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert only[probe]["httpGet"]["path"] in paths and only[probe]["httpGet"]["port"] in ports
    # Whatever is on, it is the engine's death that ends the process, not its being busy or unready.
    assert only["livenessProbe"]["httpGet"]["path"] == "/health"
    assert only["readinessProbe"]["httpGet"]["path"] == "/ready"


def labels_of(name: str) -> Document:
    (labels,) = (
        manifest(kind, one)["spec"]["template"]["metadata"]["labels"]
        for kind, one in WORKLOADS
        if one == name
    )
    found: Document = labels
    return found


def test_whoever_looks_for_pods_finds_them() -> None:
    for one in manifests("cpu"):
        spec = one.get("spec", {})
        selectors: list[Document] = []
        match one["kind"]:
            case "Service":
                selectors = [spec["selector"]]
            case "PodMonitor" | "PodDisruptionBudget":
                selectors = [spec["selector"]["matchLabels"]]
            case "NetworkPolicy":
                peers = [peer for rule in spec["ingress"] for peer in rule["from"]]
                peers += [peer for rule in spec["egress"] for peer in rule.get("to", ())]
                pods = [peer["podSelector"] for peer in peers if "podSelector" in peer]
                selectors = [pod["matchLabels"] for pod in (spec["podSelector"], *pods)]
        for selector in selectors:
            assert selector in (labels_of("steer-server"), labels_of("vllm-router")), one["metadata"]["name"]


def test_the_router_looks_for_the_replicas_on_their_port() -> None:
    options = parse_router_args(container("Deployment", "vllm-router")["args"])
    assert options.selector == labels_of("steer-server") and options.service_discovery
    (port,) = container("StatefulSet", "steer-server")["ports"]
    assert options.service_discovery_port == port["containerPort"]
    role = manifest("Role", "vllm-router")["rules"]
    assert role == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]


def test_ports_by_name_are_ports_of_the_pods() -> None:
    named = {name: {p["name"] for p in container(kind, name)["ports"]} for kind, name in WORKLOADS}
    for one in manifests("cpu"):
        if one["kind"] == "Service":
            wanted = {port["targetPort"] for port in one["spec"]["ports"]}
            assert wanted <= named[one["spec"]["selector"]["app.kubernetes.io/name"]]
        if one["kind"] == "PodMonitor":
            assert {end["port"] for end in one["spec"]["podMetricsEndpoints"]} <= named[
                one["metadata"]["name"]
            ]


def test_the_way_in_leads_generation_through_the_router_and_nothing_else() -> None:
    (rule,) = manifest("Ingress", "steer-server")["spec"]["rules"]
    to = {
        path["path"]: (path["backend"]["service"]["name"], path["pathType"]) for path in rule["http"]["paths"]
    }
    assert to == {
        "/v1/chat/completions": ("vllm-router", "Exact"),
        "/v1/completions": ("vllm-router", "Exact"),
        "/v1": ("steer-server", "Prefix"),
        "/playground": ("steer-server", "Prefix"),
    }
    services = {one["metadata"]["name"] for one in manifests("cpu") if one["kind"] == "Service"}
    assert {name for name, _ in to.values()} <= services


def test_alerts_find_the_job_and_the_scrape_is_that_of_prometheus_yml() -> None:
    monitor = manifest("PodMonitor", "steer-server")["spec"]
    (scrape,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert labels_of("steer-server")[monitor["jobLabel"]] == scrape["job_name"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["path"] == scrape["metrics_path"]
    (dropped,) = scrape["metric_relabel_configs"]
    assert endpoint["metricRelabelings"] == [
        {
            "sourceLabels": dropped["source_labels"],
            "regex": dropped["regex"],
            "action": dropped["action"],
        }
    ]


def scaling() -> tuple[Document, Document]:
    """The rule of the adapter, and the metric that the autoscaler asks for."""
    values = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    (metric,) = manifest("HorizontalPodAutoscaler", "steer-server")["spec"]["metrics"]
    return rule, metric["pods"]


def test_the_autoscaler_asks_for_a_metric_that_is_made() -> None:
    rule, metric = scaling()
    assert rule["name"]["as"] == metric["metric"]["name"]
    target = manifest("HorizontalPodAutoscaler", "steer-server")["spec"]["scaleTargetRef"]
    assert (
        target["kind"] == "StatefulSet" and "replicas" not in manifest("StatefulSet", target["name"])["spec"]
    )


async def test_the_autoscalers_query_finds_something(watched: Watched) -> None:
    rule, _ = scaling()
    query: str = rule["metricsQuery"].replace("<<.GroupBy>>", "instance")
    query = query.replace("<<.LabelMatchers>>", 'job="steer-server"')
    async with asyncio.timeout(60):
        while not await watched.prometheus.query(query):  # it has not scraped yet
            await asyncio.sleep(0.5)


def test_every_dashboard_is_a_config_map_of_a_size_that_can_be_applied() -> None:
    boards = {path.name: path.read_text() for path in (DEPLOY / "grafana" / "dashboards").glob("*.json")}
    maps = [one for one in manifests("cpu") if "grafana_dashboard" in one["metadata"].get("labels", {})]
    applied = {name: text for one in maps for name, text in one["data"].items()}
    assert applied == boards
    # kubectl keeps a copy in an annotation, which may not be larger than this.
    assert all(len(text) < 256 * 1024 for text in boards.values())
