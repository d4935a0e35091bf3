"""The card of a culture adapter: data, recipe, scores beside baselines, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steer_server.training.card import origin

if TYPE_CHECKING:
    from steer_server.training.culture_recipe import CultureRecipe, RecipeFile


def culture_card(recipe: CultureRecipe, file: RecipeFile, scores: dict[str, Any]) -> str:
    """Markdown. `scores` are in bits of Jensen-Shannon divergence, lower is better."""
    start = (
        f"It starts from a LoRA that was trained for {file.start.num_steps} steps on all countries together. "
        if file.start
        else ""
    )
    return f"""# {recipe.culture}

{recipe.description}

Countries: {", ".join(recipe.countries)}, each counting the same. LoRA of rank {recipe.rank} on all
linear layers, {recipe.num_steps} steps of {recipe.batch_size} questions on people's answer shares.
{start}{origin(scores["training_seconds"], file.sources, file.licence)}

Mean Jensen-Shannon divergence in bits from people's answers (the mean of the countries), lower is better,
on {scores["questions_held_out"]} questions that were not trained on. Uniform answers, which need no model:
{scores["uniform"]:.3f}.

| asked for | base model | this adapter |
|---|--:|--:|
| a letter, options in two orders | {scores["base_letters"]:.3f} | {scores["adapter_letters"]:.3f} |
| words | {scores["base_words"]:.3f} | {scores["adapter_words"]:.3f} |

What this is not: a description of any person, or of all people in these countries. It moves a small
model's answers toward the average of a survey. On questions that people were never asked it guesses from
how they answered others; a model of this size reads little more from a question than its form and topic.
"""
