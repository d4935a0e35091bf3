"""What a request leaves behind when it has ended: a line in the log, and spans where OpenTelemetry is on.
This list is all of it; neither ever holds a prompt, an answer, a key, or the text of an error.

Spans; indented below their parents, each where the request does it
    {method} {route}            the whole request, from its arrival to the last byte (SERVER)
        plan                    finding and building the plan
        queue                   waiting for bank slots, and loading what is missing in them
        chat {model}            one request to the engine, to the last token of a stream; `text_completion
                                {model}` for completions. To an upstream (CLIENT) with, below it,
            POST                each attempt, until the answer's headers
        rewrite                 align_pro, with a queue and a chat where the rewrite is in no cache; requests
                                that share one have those of whoever came first
        denoising               diffpo, with its queue, the draft's first judge, and for each loop
            draw                candidates: a text_completion
            judge               likelihoods of answers
        scoring                 reward heads
    vLLM's own spans (`llm_request`) lie below `chat`, `text_completion`, `judge` and `scoring`.

Attributes follow OpenTelemetry's conventions: http.request.method, http.route, http.response.status_code,
http.request.resend_count, url.path, url.scheme, client.address, server.address, server.port, error.type (the
error's code), gen_ai.operation.name, gen_ai.provider.name, gen_ai.request.model, gen_ai.request.max_tokens,
gen_ai.request.temperature, gen_ai.request.top_p, gen_ai.request.top_k, gen_ai.request.frequency_penalty,
gen_ai.request.presence_penalty, gen_ai.request.seed, gen_ai.request.choice.count, gen_ai.request.stream,
gen_ai.response.id, gen_ai.response.model, gen_ai.response.finish_reasons, gen_ai.usage.input_tokens,
gen_ai.usage.output_tokens; on a stream's own span gen_ai.response.time_to_first_chunk, in seconds. Ours are
    steer.request_id            as in the header X-Request-Id and in the log
    steer.plan                  the plan's digest
    steer.method                `adapters`, `best_of_n`, ...
    steer.adapters              `name@version` of the plan's
    steer.outcome               answered, refused (4xx or no room), failed (5xx or in the stream), left (the
                                client went away)
    steer.reward_heads          `name@version` of those that score
    steer.rewrite.status        `rewritten`, `cached` or `original`
    steer.rewrite.reason        why it is the original
    steer.denoising.loops       how many
    steer.denoising.outcome     `improved`, or why the draft was given back

The log, of one line per request: request_id, trace_id (where it is traced), http_method, route, status,
client, duration_ms, and where they apply method, plan, adapters, outcome, error_code, first_token_ms,
timings_ms. Probes and scrapes leave none unless they fail. Other lines have the ids of the request that they
were written for, if any; an act of an operator has action, adapter, version, outcome, actor.
"""
