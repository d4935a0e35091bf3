"""What is on the five dashboards."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.source.panels import board, graph, number, spread
from deploy.grafana.source.promql import by_culture, mean, metric, quantile, rate, ratio, total

FAULTS = 'status=~"5..",status!="503"'
"""503 is a refusal for want of room, and has panels of its own."""


def overview() -> Dashboard:
    answered = total(rate("steer_requests_total"))
    now = [
        number("Servers", "That Prometheus reaches.", "short", f"sum({metric('up')})"),
        number(
            "Engines alive", "Lowest of all servers: 1 is well.", "short", f"min({metric('steer_engine_up')})"
        ),
        number("Requests", "Answered a second, errors included.", "reqps", answered),
        number(
            "Errors",
            "Share of requests that the server failed: 5xx but for 503.",
            "percentunit",
            ratio(f"({total(rate('steer_requests_total', FAULTS))} or vector(0))", answered),
        ),
        number(
            "First token, p95",
            "Of streams, from the request's body.",
            "s",
            quantile(0.95, "steer_time_to_first_token_seconds"),
        ),
        number(
            "Waiting", "Requests in line for bank slots.", "short", total(metric("steer_requests_waiting"))
        ),
    ]
    service = [
        number("Adapters", "That may be used now.", "short", f"max({metric('steer_adapters_active')})"),
        number(
            "Not served",
            "Active versions that some server cannot serve.",
            "short",
            f"max({metric('steer_adapters_not_served')})",
        ),
        number("In flight", "Requests under a plan now.", "short", total(metric("steer_plans_in_flight"))),
        number("Different plans", "Among them.", "short", total(metric("steer_plans_distinct"))),
        number(
            "Refused",
            "A second, for want of a bank slot.",
            "reqps",
            total(rate("steer_requests_refused_total")),
        ),
        number(
            "Build",
            "Version, vLLM and model of each server.",
            "short",
            metric("steer_build_info"),
            legend="{{version}}, vLLM {{vllm_version}}: {{model}}",
        ),
    ]
    traffic = [
        graph(
            "Requests by method",
            "Answered a second.",
            "reqps",
            by_method=total(rate("steer_requests_total"), "method"),
        ),
        graph(
            "Errors by code",
            "`in_stream` came after the first byte. `errors.py` says what the other codes mean. "
            "`refused_by_key`: strangers, and keys that ask too much.",
            "reqps",
            by_code=total(rate("steer_request_errors_total"), "code"),
            refused_by_key=total(rate("steer_key_refusals_total")),
        ),
        graph(
            "Running and waiting",
            "In the engine or at an upstream, and in line for bank slots.",
            "short",
            by_method=total(metric("steer_requests_running"), "method"),
            waiting=total(metric("steer_requests_waiting")),
        ),
    ]
    upstreams = [
        graph(
            "Upstreams: attempts",
            "By how they ended.",
            "reqps",
            by_upstream_and_outcome=total(rate("steer_upstream_requests_total"), "upstream", "outcome"),
        ),
        graph(
            "Upstreams: tried again",
            "Attempts that were not the first of a request.",
            "reqps",
            by_upstream=total(rate("steer_upstream_retries_total"), "upstream"),
        ),
        graph(
            "Upstreams: first byte, p95",
            "Retries included.",
            "s",
            by_upstream=quantile(0.95, "steer_upstream_first_byte_seconds", "upstream"),
        ),
        graph(
            "Upstreams: breaker",
            "0 closed, 1 half open, 2 open.",
            "short",
            by_upstream=f"max by (upstream) ({metric('steer_upstream_breaker_state')})",
        ),
    ]
    return board(
        "steer-overview",
        "Steering: overview",
        "Whether steering works, how fast, and what is wrong.",
        [("Now", now), ("Service", service), ("Traffic", traffic), ("Upstreams", upstreams)],
    )


def latency() -> Dashboard:
    def both(histogram: str) -> dict[str, str]:
        return {"by_method": quantile(0.95, histogram, "method"), "median": quantile(0.5, histogram)}

    def of_culture(summary: str) -> str:
        return ratio(by_culture(rate(f"{summary}_sum")), by_culture(rate(f"{summary}_count")))

    by_method = [
        graph(
            "Time to first token, p95",
            "Of streams, by method; and the median of all.",
            "s",
            **both("steer_time_to_first_token_seconds"),
        ),
        graph(
            "Time per output token, p95",
            "Of streams, by method; and the median of all.",
            "s",
            **both("steer_time_per_output_token_seconds"),
        ),
        graph(
            "Whole request, p95",
            "To the last byte, by method; and the median of all.",
            "s",
            **both("steer_request_duration_seconds"),
        ),
        graph(
            "Wait for slots, p95", "By method; and the median of all.", "s", **both("steer_slot_wait_seconds")
        ),
        graph(
            "Planning, p95",
            "Tens of microseconds; more says that the process has no time.",
            "s",
            p95=quantile(0.95, "steer_plan_seconds"),
        ),
        graph(
            "Plans",
            "In the engine now, and how many of them differ.",
            "short",
            running=total(metric("steer_plans_in_flight")),
            different=total(metric("steer_plans_distinct")),
        ),
    ]
    cultures = [
        graph(
            "Time to first token by culture",
            "Mean, of streams; a blend counts for each of its cultures.",
            "s",
            by_culture=of_culture("steer_adapter_time_to_first_token_seconds"),
        ),
        graph(
            "Time per output token by culture",
            "Mean, of streams.",
            "s",
            by_culture=of_culture("steer_adapter_time_per_output_token_seconds"),
        ),
        graph(
            "Whole request by culture",
            "Mean, to the last byte.",
            "s",
            by_culture=of_culture("steer_adapter_request_duration_seconds"),
        ),
    ]
    adapters = [
        graph(
            "Slowest adapters: first token, p95",
            "The five slowest.",
            "s",
            by_adapter=f"topk(5, {quantile(0.95, 'steer_adapter_time_to_first_token_seconds', 'adapter')})",
        ),
        graph(
            "Longest waits for slots by adapter",
            "Mean; an adapter that is much asked for and often pushed out waits longest.",
            "s",
            by_adapter=f"topk(5, {mean('steer_adapter_slot_wait_seconds', 'adapter')})",
        ),
        graph(
            "Failed and refused by adapter",
            "A second.",
            "reqps",
            by_adapter_and_outcome=total(
                rate("steer_adapter_requests_total", 'outcome=~"failed|refused"'), "adapter", "outcome"
            ),
        ),
    ]
    methods = [
        graph(
            "Rewrites by outcome",
            "A second, of align_pro; other than `rewritten` and `cached`, the original was sent.",
            "ops",
            by_outcome=total(rate("steer_rewrites_total"), "outcome"),
        ),
        graph(
            "Time to rewrite",
            "Of those in no cache, waits for slots included.",
            "s",
            median=quantile(0.5, "steer_rewrite_seconds"),
            p95=quantile(0.95, "steer_rewrite_seconds"),
        ),
        graph(
            "Rewrites in the cache",
            "Of all servers, and their characters.",
            "short",
            rewrites=total(metric("steer_rewrites_kept")),
            characters=total(metric("steer_rewrite_cache_characters")),
        ),
        graph(
            "Denoised answers by outcome",
            "A second, of diffpo; other than `improved`, the draft was given back.",
            "ops",
            by_outcome=total(rate("steer_denoising_answers_total"), "outcome"),
        ),
        graph(
            "Denoising loops",
            "Of one answer.",
            "short",
            median=quantile(0.5, "steer_denoising_loops"),
            p95=quantile(0.95, "steer_denoising_loops"),
        ),
        graph(
            "Changed by denoising",
            "Mean share of a draft's tokens, where any were.",
            "percentunit",
            mean=mean("steer_denoising_changed_ratio"),
        ),
    ]
    return board(
        "steer-latency",
        "Steering: latency by method and culture",
        "How long answers take, and which method or adapter is to blame.",
        [
            ("By method", by_method),
            ("By culture", cultures),
            ("By adapter", adapters),
            ("Rewriting and denoising", methods),
        ],
    )


def adapters() -> Dashboard:
    slots = [
        graph(
            "Bank slots",
            "Leased by requests, holding an adapter, and all.",
            "short",
            leased=total(metric("steer_slots_leased")),
            resident=total(metric("steer_slots_resident")),
            all=total(metric("steer_slots")),
        ),
        graph(
            "Waiting line",
            "Requests, beside the most that may wait.",
            "short",
            waiting=total(metric("steer_requests_waiting")),
            limit=total(metric("steer_requests_waiting_limit")),
        ),
        graph(
            "Leases",
            "Held on slots: requests times adapters.",
            "short",
            by_instance=total(metric("steer_slot_leases"), "instance"),
        ),
        graph(
            "Loads into slots by adapter",
            "A second. More adapters in demand than slots shows here.",
            "ops",
            by_adapter_and_outcome=total(rate("steer_adapter_slot_loads_total"), "adapter", "outcome"),
        ),
        graph(
            "Time to load a slot",
            "Median and p95.",
            "s",
            median=quantile(0.5, "steer_slot_load_seconds"),
            p95=quantile(0.95, "steer_slot_load_seconds"),
        ),
        graph(
            "In slots now",
            "1 where a server has the adapter in a slot.",
            "short",
            by_adapter=total(metric("steer_adapter_resident"), "adapter"),
        ),
    ]
    use = [
        graph(
            "Requests by adapter",
            "Answered a second.",
            "reqps",
            by_adapter=total(rate("steer_adapter_requests_total", 'outcome="answered"'), "adapter"),
        ),
        graph(
            "Running by adapter",
            "In the engine now.",
            "short",
            by_adapter=total(metric("steer_adapter_requests_running"), "adapter"),
        ),
        graph(
            "Under quarantine",
            "Requests that still run with a version in quarantine.",
            "short",
            by_instance=total(metric("steer_quarantined_requests_running"), "instance"),
        ),
    ]
    lifecycle = [
        graph(
            "Versions by state",
            "In the catalogue.",
            "short",
            by_state=f"max by (state) ({metric('steer_adapter_versions')})",
        ),
        graph(
            "Acts, p95",
            "From an operator's request until it is served.",
            "s",
            by_act=quantile(0.95, "steer_adapter_act_seconds", "act"),
        ),
        graph(
            "Acts that failed",
            "A second, with the reason that the answer named.",
            "ops",
            by_act_and_reason=total(rate("steer_adapter_act_failures_total"), "act", "reason"),
        ),
        graph(
            "Probes, p95",
            "A few tokens through the engine, loading included.",
            "s",
            by_kind=quantile(0.95, "steer_probe_seconds", "kind"),
        ),
        graph(
            "Probes that failed",
            "A second, by reason.",
            "ops",
            by_kind_and_reason=total(rate("steer_probe_failures_total"), "kind", "reason"),
        ),
        graph(
            "Refused or not served",
            "Folders that were refused, and active versions that a server cannot serve.",
            "short",
            folders=f"max({metric('steer_adapter_folders_refused')})",
            versions=f"max({metric('steer_adapters_not_served')})",
        ),
    ]
    replicas = [
        graph(
            "Revision served",
            "By server; they should be one line.",
            "short",
            by_instance=f"max by (instance) ({metric('steer_catalogue_revision')})",
        ),
        graph(
            "Behind the newest",
            "Revisions that a server has not followed yet.",
            "short",
            by_instance=(
                f"scalar(max({metric('steer_catalogue_revision')})) - {metric('steer_catalogue_revision')}"
            ),
        ),
        graph(
            "Silence of the database",
            "Seconds since it last answered each server.",
            "s",
            by_instance=f"max by (instance) ({metric('steer_catalogue_database_age_seconds')})",
        ),
    ]
    return board(
        "steer-adapters",
        "Steering: adapters and lifecycle",
        "What is loaded, how it is used, and what operators did.",
        [("Bank slots", slots), ("Use", use), ("Lifecycle", lifecycle), ("Replicas", replicas)],
    )


def rewards() -> Dashboard:
    answers = ('origin="answer"',)
    of_culture = "on (job, instance, adapter) group_left (culture) " + metric(
        "steer_adapter_info", 'culture!=""'
    )

    def by_head_and_culture(part: str) -> str:
        return f"sum by (head, culture) ({rate(f'steer_adapter_reward_score_{part}')} * {of_culture})"

    score = ratio(by_head_and_culture("sum"), by_head_and_culture("count"))
    requests = by_culture(rate("steer_adapter_requests_total", 'outcome="answered"'))
    failed = by_culture(rate("steer_adapter_requests_total", 'outcome=~"failed|refused"'))
    scores = [
        graph(
            "Mean score by head",
            "Calibrated, 0..1, of answers given here.",
            "percentunit",
            by_head=mean("steer_reward_score", "head", matchers=answers),
        ),
        spread(
            "Scores of answers",
            "How many answers had which score, all heads together.",
            "short",
            total(rate("steer_reward_score_bucket", *answers), "le"),
        ),
        graph(
            "Mean score of answers sent in",
            "To `/v1/rewards`.",
            "percentunit",
            by_head=mean("steer_reward_score", "head", matchers=('origin="request"',)),
        ),
        graph("Scored", "A second.", "ops", by_origin=total(rate("steer_reward_score_count"), "origin")),
        graph(
            "Time to score a request",
            "Median and p95, the loading of heads included.",
            "s",
            median=quantile(0.5, "steer_scoring_seconds"),
            p95=quantile(0.95, "steer_scoring_seconds"),
        ),
    ]
    fairness = [
        graph(
            "Mean score by head and culture",
            "Of answers under each culture; a blend counts for each of its cultures.",
            "percentunit",
            by_head_and_culture=score,
        ),
        graph(
            "Gap between cultures",
            "By head: the best-served culture's mean score less the worst-served one's.",
            "percentunit",
            by_head=f"max by (head) ({score}) - min by (head) ({score})",
        ),
        graph(
            "The base model's mean score",
            "Of unsteered answers, to compare with.",
            "percentunit",
            by_head=mean("steer_adapter_reward_score", "head", matchers=('adapter="none"',)),
        ),
        graph("Answers by culture", "A second.", "reqps", by_culture=requests),
        graph(
            "Failed or refused by culture",
            "Share of the requests under each culture that got no answer.",
            "percentunit",
            by_culture=ratio(failed, by_culture(rate("steer_adapter_requests_total"))),
        ),
        graph(
            "Wait for slots by culture",
            "Mean: whose requests wait for others.",
            "s",
            by_culture=ratio(
                by_culture(rate("steer_adapter_slot_wait_seconds_sum")),
                by_culture(rate("steer_adapter_slot_wait_seconds_count")),
            ),
        ),
    ]
    return board(
        "steer-rewards",
        "Steering: rewards and fairness",
        "How people are likely to judge the answers, and whether cultures are served alike.",
        [("Scores", scores), ("Between cultures", fairness)],
    )


def engine() -> Dashboard:
    def p95(histogram: str) -> dict[str, str]:
        return {"median": quantile(0.5, histogram), "p95": quantile(0.95, histogram)}

    load = [
        graph(
            "Requests in the engine",
            "Running, and waiting by reason; `deferred` includes the limit on different plans of a step.",
            "short",
            running=total(metric("vllm:num_requests_running")),
            by_reason=total(metric("vllm:num_requests_waiting_by_reason"), "reason"),
        ),
        graph(
            "KV cache in use",
            "Share of its blocks.",
            "percentunit",
            by_instance=f"max by (instance) ({metric('vllm:kv_cache_usage_perc')})",
        ),
        graph(
            "Preemptions",
            "A second: requests thrown out of the cache and begun again.",
            "ops",
            by_instance=total(rate("vllm:num_preemptions_total"), "instance"),
        ),
        graph(
            "Tokens",
            "A second.",
            "short",
            prompt=total(rate("vllm:prompt_tokens_total")),
            generated=total(rate("vllm:generation_tokens_total")),
        ),
        graph(
            "Prefix cache hits",
            "Share of looked-up tokens. Plans never share blocks with each other.",
            "percentunit",
            hits=ratio(
                total(rate("vllm:prefix_cache_hits_total")), total(rate("vllm:prefix_cache_queries_total"))
            ),
        ),
        graph(
            "Finished",
            "A second, by reason.",
            "reqps",
            by_finished_reason=total(rate("vllm:request_success_total"), "finished_reason"),
        ),
    ]
    times = [
        graph(
            "Time to first token",
            "From the engine's side, all methods together.",
            "s",
            **p95("vllm:time_to_first_token_seconds"),
        ),
        graph("Between tokens", "From the engine's side.", "s", **p95("vllm:inter_token_latency_seconds")),
        graph("Whole request", "From the engine's side.", "s", **p95("vllm:e2e_request_latency_seconds")),
        graph("Queue", "In the engine's own line.", "s", **p95("vllm:request_queue_time_seconds")),
        graph("Prefill", "Reading the prompt.", "s", **p95("vllm:request_prefill_time_seconds")),
        graph("Tokens in a step", "Of all requests together.", "short", **p95("vllm:iteration_tokens_total")),
    ]
    process = [
        graph(
            "Memory",
            "Resident, of the API's process.",
            "bytes",
            by_instance=f"max by (instance) ({metric('process_resident_memory_bytes')})",
        ),
        graph("Processor", "Cores in use by it.", "short", by_instance=rate("process_cpu_seconds_total")),
        graph("Open files", "Of it.", "short", by_instance=metric("process_open_fds")),
    ]
    return board(
        "steer-engine",
        "Steering: engine",
        "vLLM's own metrics, beside which steering's are read.",
        [("Load", load), ("Times", times), ("Process", process)],
    )


BOARDS: Mapping[str, Callable[[], Dashboard]] = {
    "overview": overview,
    "latency": latency,
    "adapters": adapters,
    "rewards": rewards,
    "engine": engine,
}
"""By file name."""
