"""Sixty easy questions with four options each, one of them right: does a setting still know what all know?

The facts are ones that most school leavers anywhere know and that no people dispute. The wrong options are of
the same sort and of about the same length, because the words readout favours short ones. A model that guesses
is right in a quarter. Not covered: reasoning, long answers, languages other than English.
"""

from __future__ import annotations

from dataclasses import dataclass

CHANCE = 0.25


@dataclass(frozen=True)
class KnowledgeQuestion:
    topic: str
    text: str
    right: str
    wrong: tuple[str, str, str]

    @property
    def options(self) -> tuple[str, ...]:
        """The right one is the first; whoever asks puts it elsewhere too."""
        return (self.right, *self.wrong)


_TABLE = {
    "capitals": """
What is the capital of France? | Paris | Rome | Madrid | Berlin
What is the capital of Japan? | Tokyo | Seoul | Beijing | Bangkok
What is the capital of Italy? | Rome | Paris | Athens | Vienna
What is the capital of Egypt? | Cairo | Tunis | Rabat | Nairobi
What is the capital of Germany? | Berlin | London | Prague | Warsaw
What is the capital of Spain? | Madrid | Lisbon | Paris | Dublin
What is the capital of Russia? | Moscow | Kyiv | Oslo | Helsinki
What is the capital of Kenya? | Nairobi | Cairo | Lagos | Accra
What is the capital of Peru? | Lima | Quito | Bogota | Santiago
What is the capital of Greece? | Athens | Rome | Sofia | Cairo
""",
    "geography": """
Which ocean lies between Europe and North America? | Atlantic | Pacific | Indian | Arctic
On which continent is Brazil? | South America | Africa | Europe | Asia
On which continent is India? | Asia | Africa | Europe | Australia
Which river flows through Egypt? | Nile | Amazon | Danube | Ganges
What is the highest mountain on Earth? | Mount Everest | Mount Fuji | Mont Blanc | Mount Kenya
What is the largest ocean on Earth? | Pacific Ocean | Atlantic Ocean | Indian Ocean | Arctic Ocean
In which country is the city of Mumbai? | India | China | Mexico | Brazil
In which direction does the sun rise? | East | West | North | South
""",
    "arithmetic": """
What is two plus two? | Four | Five | Six | Nine
What is three plus four? | Seven | Eight | Five | Nine
What is ten minus six? | Four | Three | Six | Seven
What is five times two? | Ten | Seven | Three | Twelve
What is half of twelve? | Six | Four | Eight | Ten
What is nine minus nine? | Zero | One | Nine | Ten
How many sides does a triangle have? | Three | Four | Five | Six
How many corners does a square have? | Four | Three | Five | Eight
What number comes after nine? | Ten | Eight | Seven | Eleven
How many things make a dozen? | Twelve | Ten | Twenty | Six
""",
    "science": """
Which gas do plants take in to make sugar? | Carbon dioxide | Nitrogen | Helium | Methane
Which gas in the air do people need to breathe? | Oxygen | Helium | Hydrogen | Argon
What does water become when it freezes? | Ice | Steam | Sand | Salt
Which planet do people live on? | Earth | Mars | Venus | Saturn
What is at the centre of the solar system? | The Sun | The Moon | The Earth | Mars
Which organ pumps blood through the body? | The heart | The liver | The lungs | The stomach
Which organ do people think with? | The brain | The heart | The liver | The kidneys
What does H2O stand for? | Water | Salt | Gold | Air
Which force makes things fall to the ground? | Gravity | Friction | Magnetism | Electricity
What goes around the Earth and shines at night? | The Moon | The Sun | Mars | Jupiter
What does a thermometer measure? | Temperature | Weight | Distance | Loudness
Which part of a plant takes up water from the soil? | The roots | The leaves | The flowers | The seeds
""",
    "animals": """
Which animal gives milk and says moo? | Cow | Horse | Sheep | Goat
What do bees make? | Honey | Milk | Silk | Wool
Which animal has a very long trunk? | Elephant | Giraffe | Lion | Camel
Which animal barks? | Dog | Cat | Cow | Horse
What does a caterpillar turn into? | A butterfly | A spider | A bird | A worm
How many legs does a spider have? | Eight | Six | Four | Ten
Which of these animals can fly? | An eagle | A horse | A whale | A snake
Where do fish live? | In water | In trees | In the sky | In the desert
""",
    "history": """
Who wrote Romeo and Juliet? | William Shakespeare | Isaac Newton | Charles Darwin | Albert Einstein
Who was the first president of the USA? | George Washington | Abraham Lincoln | John Kennedy | Thomas Edison
In which country were the ancient pyramids of Giza built? | Egypt | Greece | China | Peru
Which city did the ancient Romans rule from? | Rome | London | Paris | Moscow
In which year did the Second World War end? | 1945 | 1845 | 1815 | 1995
Who first walked on the Moon? | Neil Armstrong | Christopher Columbus | Isaac Newton | Marco Polo
""",
    "everyday": """
How many days are in a week? | Seven | Five | Ten | Twelve
How many months are in a year? | Twelve | Ten | Seven | Twenty
Which day comes after Monday? | Tuesday | Sunday | Friday | Thursday
What is the first month of the year? | January | March | June | December
What colour is fresh grass? | Green | Blue | Red | Purple
What do people use to cut paper? | Scissors | A spoon | A pillow | A candle
""",
}

QUESTIONS = tuple(
    KnowledgeQuestion(topic, text, right, (first, second, third))
    for topic, lines in _TABLE.items()
    for line in lines.strip().splitlines()
    for text, right, first, second, third in (tuple(cell.strip() for cell in line.split("|")),)
)
