"""Ordinary prompts with answers, which an adapter leaves alone, for when no others are given.

They have nothing to do with values, and the answers are only texts on which to compare two models.
"""

from __future__ import annotations

ORDINARY = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How many minutes are there in three hours?", "There are 180 minutes in three hours."),
    ("Write a short thank-you note to a colleague.", "Thank you for your help with the report this week."),
    (
        "Explain why the sky is blue.",
        "Sunlight is scattered by the air, and blue light is scattered the most.",
    ),
    ("Give me three ideas for a quick dinner.", "Pasta with garlic, vegetable fried rice, or an omelette."),
    ("Translate 'good morning' into Spanish.", "'Good morning' in Spanish is 'buenos días'."),
    ("What is the boiling point of water at sea level?", "Water boils at 100 degrees Celsius at sea level."),
    ("Rewrite this more politely: Send me the file.", "Could you please send me the file when you can?"),
    ("Who wrote Romeo and Juliet?", "William Shakespeare wrote Romeo and Juliet."),
    ("How do I reverse a list in Python?", "Use `items[::-1]`, or `items.reverse()` to change it in place."),
    ("Name the largest planet in the solar system.", "Jupiter is the largest planet in the solar system."),
    ("What is 15 percent of 80?", "15 percent of 80 is 12."),
    ("Describe how plants make food.", "Plants turn sunlight, water and carbon dioxide into sugar."),
    ("Suggest a title for a story about a lost dog.", "The Long Way Home."),
    ("How do I remove a coffee stain?", "Blot it, rinse with cold water, then use a little detergent."),
    ("What does a thermometer measure?", "A thermometer measures temperature."),
)
"""(prompt, answer)."""
