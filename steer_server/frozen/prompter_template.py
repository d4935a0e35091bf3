"""How a prompter is asked for a rewrite: the one conversation that it is trained on and served with.

It is shown the message to rewrite and nothing else: no system prompt and no earlier turns, so that there is
nothing of theirs for it to leak.
"""

from __future__ import annotations

TEMPLATE_VERSION = 1
"""Goes up with every change below; a prompter's manifest names the version that it was trained with."""

INSTRUCTION = (
    "Rewrite the request below so that a good answer to it will be a better one. Keep what it asks for, its "
    "names, numbers and quotations, and its language. Do not answer it. Write the rewritten request alone."
)
END_MARK = "Rewritten request:"


def prompter_messages(prompt: str) -> list[dict[str, str]]:
    """The messages whose answer is the rewrite of `prompt`.

    One user message, because some models' chat templates take no other role first. The instruction comes
    before the prompt, so that all rewrites share its part of the prefix cache.
    """
    return [{"role": "user", "content": f"{INSTRUCTION}\n\nRequest:\n{prompt}\n\n{END_MARK}"}]
