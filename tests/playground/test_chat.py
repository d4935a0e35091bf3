"""Chat: both sides are asked the same; the page shows what comes, what was applied and what went wrong."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from steer_server.frozen.prompter_template import prompter_messages
from tests.playground.conftest import PHONE, QUESTION, Playground


async def test_both_sides_answer_the_same_prompt_and_their_differences_are_marked(
    playground: Playground,
) -> None:
    plain, steered = await playground.ask()
    assert plain["messages"] == steered["messages"] == [{"role": "user", "content": QUESTION}]
    assert plain["steering"] == {"method": "none"} and steered["steering"] == {"cultures": {"amber": 1}}
    assert plain["stream"] and plain["model"] == "fake"
    texts = [await playground.answer(side).locator(".answer-text").inner_text() for side in "AB"]
    assert texts[0] != texts[1] and len(texts[0].split()) == plain["max_tokens"]
    marked = await playground.answer("B").locator("mark").all_inner_texts()
    assert marked and set(" ".join(marked).split()) <= set(texts[1].split())
    await playground.page.get_by_label("Mark differences").uncheck()
    await expect(playground.page.locator("mark")).to_have_count(0)


async def test_the_words_of_an_answer_show_as_they_come(playground: Playground) -> None:
    assert playground.site.fake is not None
    playground.site.fake.token_seconds = 0.05
    try:
        await playground.page.get_by_label("Your message").fill(QUESTION)
        await playground.page.get_by_role("button", name="Ask both").click()
        text = playground.answer("B").locator(".answer-text")
        await expect(text).to_have_attribute("data-status", "streaming")
        await expect(text).to_have_attribute("aria-busy", "true")
        first = (await text.inner_text()).strip()
        await playground.page.wait_for_function(
            "([node, length]) => node.innerText.trim().length > length + 8",
            arg=[await text.element_handle(), len(first)],
        )
        playground.site.fake.token_seconds = 60.0  # the next word waits until it is stopped
        await expect(text).to_have_attribute("data-status", "streaming")
        assert (await text.inner_text()).startswith(first)
        await playground.page.get_by_role("button", name="Stop").click()
        await expect(text).to_have_attribute("data-status", "stopped")
        await expect(playground.answer("A").get_by_text("Stopped.")).to_be_visible()
    finally:
        playground.site.fake.token_seconds = 0.004


async def test_what_was_applied_is_shown_with_versions_weights_and_scores(playground: Playground) -> None:
    page = playground.page
    await page.get_by_label("Warm", exact=True).check()
    await page.get_by_label("Steer by value axes").check()
    await playground.ask()
    applied = playground.answer("B").locator(".applied")
    await expect(applied).to_contain_text("amber@1.0.0")
    await expect(applied).to_contain_text("compass@1.0.0")
    await expect(applied).to_contain_text("Values, after policy")
    await expect(applied).to_contain_text(re.compile(r"Reward scores\s*Warm\s*0\.\d\d"))
    await expect(applied).to_contain_text("first word")
    await expect(playground.answer("A").locator(".applied")).to_contain_text("No adapters: the plain model.")
    await expect(playground.answer("A").locator(".applied")).to_contain_text("Reward scores")


async def test_what_will_be_applied_is_said_before_anything_is_asked(playground: Playground) -> None:
    preview = playground.page.locator(".preview")
    await expect(preview).to_contain_text("amber@1.0.0")
    await playground.page.get_by_label("Amber", exact=True).fill("0.25")
    await expect(preview).to_contain_text("0.25")
    await playground.page.get_by_role("button", name="Remove Amber").click()
    await expect(preview).to_contain_text("Choose something to steer by.")


async def test_an_error_is_shown_in_the_servers_words_with_its_place(playground: Playground) -> None:
    playground.expects_refusals = True
    page = playground.page
    await page.get_by_label("Best of n").check()
    preview = page.locator(".preview")
    await expect(preview).to_contain_text("best_of_n chooses by reward heads; name at least one.")
    await expect(preview).to_contain_text("at steering.reward_heads")
    await playground.ask()
    alert = playground.answer("B").get_by_role("alert")
    await expect(alert).to_contain_text("best_of_n chooses by reward heads; name at least one.")
    await expect(playground.answer("A").get_by_role("alert")).to_have_count(0)


async def test_an_error_in_the_middle_of_a_stream_is_shown_below_what_had_come(
    playground: Playground,
) -> None:
    body = (
        'data: {"choices": [{"index": 0, "delta": {"content": "Half an"}}]}\n\n'
        'data: {"error": {"message": "The engine is gone.", "code": "engine_error", "param": null}}\n\n'
        "data: [DONE]\n\n"
    )
    await playground.page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream")
    )
    await playground.ask()
    await expect(playground.answer("B").locator(".answer-text")).to_contain_text("Half an")
    await expect(playground.answer("B").get_by_role("alert")).to_contain_text("The engine is gone.")


async def test_a_busy_server_is_asked_again_when_it_says_so(playground: Playground) -> None:
    page = playground.page
    playground.expects_refusals = True
    refused = await refuse_busily(page, seconds=2, how_often=2)
    await page.get_by_label("Your message").fill(QUESTION)
    await page.get_by_role("button", name="Ask both").click()
    # All of it in one look: it is there for two seconds.
    busy = page.get_by_role("article", name=re.compile("Answer [AB]")).get_by_role("status")
    told = re.compile(r"All slots are taken\.\s*Asking again (in [12] s\.|…)")
    await expect(busy).to_contain_text([told, told])
    await page.get_by_role("button", name="Ask both").wait_for()
    for side in "AB":
        text = playground.answer(side).locator(".answer-text")
        await expect(text).to_have_attribute("data-status", "done")
        await expect(playground.answer(side).locator(".busy")).to_have_count(0)
    assert len(refused) == 2 and len(playground.sent()) == 4


async def test_waiting_for_a_busy_server_can_be_stopped(playground: Playground) -> None:
    page = playground.page
    playground.expects_refusals = True
    refused = await refuse_busily(page, seconds=60, how_often=9)
    await page.get_by_label("Your message").fill(QUESTION)
    await page.get_by_role("button", name="Ask both").click()
    await expect(page.get_by_text("All slots are taken.")).to_have_count(2)
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_text("Stopped.")).to_have_count(2)
    await expect(page.locator(".busy")).to_have_count(0)
    assert len(refused) == 2


async def test_a_wait_of_an_hour_is_an_error_at_once(playground: Playground) -> None:
    playground.expects_refusals = True
    refused = await refuse_busily(playground.page, seconds=3600, how_often=9)
    await playground.ask()
    await expect(playground.answer("B").get_by_role("alert")).to_contain_text("All slots are taken.")
    assert len(refused) == 2


async def refuse_busily(page: Page, *, seconds: int, how_often: int) -> list[Route]:
    """The requests that were refused, as they come."""
    refused: list[Route] = []
    error = {"message": "All slots are taken.", "code": "no_bank_slot", "param": None}

    async def answer(route: Route) -> None:
        if len(refused) == how_often:
            await route.continue_()
            return
        refused.append(route)
        await route.fulfill(status=503, headers={"Retry-After": str(seconds)}, json={"error": error})

    await page.route("**/v1/chat/completions", answer)
    return refused


async def test_model_output_is_text_and_never_markup(playground: Playground) -> None:
    evil = "<img src=x onerror=alert(1)> <b>bold</b> <script>alert(1)</script>"
    chunk = {"choices": [{"index": 0, "delta": {"content": evil}}]}
    body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    await playground.page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream")
    )
    await playground.ask()
    text = playground.answer("B").locator(".answer-text")
    await expect(text).to_have_text(evil)
    assert await text.locator("img, b, script").count() == 0


async def test_any_two_settings_can_be_compared(playground: Playground) -> None:
    page = playground.page
    await page.get_by_role("button", name=re.compile("Setting A")).click()
    await page.get_by_label("Adapters", exact=True).check()
    await page.get_by_label("Add a culture").select_option("blue")
    left, right = await playground.ask()
    assert left["steering"] == {"cultures": {"blue": 1}} and right["steering"] == {"cultures": {"amber": 1}}


async def test_a_conversation_goes_on_with_each_sides_own_answers(playground: Playground) -> None:
    await playground.ask("First?")
    plain, _ = await playground.ask("Second?")
    assert [m["content"] for m in plain["messages"]] == ["Second?"]
    await playground.page.get_by_label("Go on from the answers").check()
    last = await playground.answer("B").locator(".answer-text").inner_text()
    _, steered = await playground.ask("Third?")
    assert [m["role"] for m in steered["messages"]] == ["user", "assistant"] * 2 + ["user"]
    assert steered["messages"][-2]["content"].split() == last.split()
    await expect(playground.page.get_by_label("Your message")).to_have_value("")


async def test_a_rewritten_prompt_is_shown_beside_the_original(playground: Playground) -> None:
    assert playground.site.fake is not None
    question = "How important is religion in your life?"
    rewrite = "How important is religion in your own life, and why?"
    playground.site.fake.answers[_key(prompter_messages(question))] = rewrite
    await playground.page.get_by_label("Rewritten prompt").check()
    await playground.ask(question)
    applied = playground.answer("B").locator(".applied")
    await expect(applied).to_contain_text("The prompt was rewritten")
    await expect(applied.locator(".compared")).to_contain_text(rewrite)
    assert await applied.locator("mark.only-b").all_inner_texts() == ["own life, and why?"]
    await expect(applied).to_contain_text("gentle-prompter@1.0.0")


async def test_a_denoised_draft_shows_its_loops_what_changed_and_what_was_let_pass(
    playground: Playground,
) -> None:
    await playground.page.get_by_label("Denoised draft").check()
    await playground.page.get_by_label("Loops at most", exact=True).fill("2")
    await playground.page.get_by_text("Generation", exact=True).click()
    await playground.page.get_by_label("Most tokens").fill("24")
    _, steered = await playground.ask()
    assert steered["steering"]["options"]["loops"] == 2
    denoised = playground.answer("B").locator(".denoised")
    await expect(denoised).to_contain_text(re.compile(r"The draft was (improved|given back)\."))
    await expect(denoised).to_contain_text(re.compile(r"Loops\s*\d"))
    await expect(denoised).to_contain_text(re.compile(r"Tokens changed\s*\d+ %"))


async def test_the_best_of_several_answers_shows_the_others_scores(playground: Playground) -> None:
    page = playground.page
    await page.get_by_label("Best of n").check()
    await page.get_by_label("Warm", exact=True).check()
    await page.get_by_text("Generation", exact=True).click()
    await page.get_by_label("Temperature").fill("0.7")
    await playground.ask()
    applied = playground.answer("B").locator(".applied")
    await expect(applied).to_contain_text("No. 4")
    await expect(applied.get_by_text(", chosen")).to_have_count(1)


@pytest.mark.parametrize("size", [PHONE], ids=["phone"], indirect=True)
async def test_on_a_phone_everything_is_reached_without_scrolling_sideways(playground: Playground) -> None:
    page = playground.page
    await page.get_by_role("button", name="Adjust the steering").click()
    await page.get_by_label("Add a culture").select_option("blue")
    _, steered = await playground.ask()
    assert steered["steering"]["cultures"] == {"amber": 1, "blue": 1}
    for part in ("chat", "sweep", "adapters"):
        await playground.open(part)
        await page.wait_for_load_state("networkidle")
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE[0], part


def _key(messages: list[dict[str, str]]) -> Any:
    return json.dumps(messages, sort_keys=True)
