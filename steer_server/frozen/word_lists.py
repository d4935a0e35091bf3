"""Words that the checks of rewrites know: most in English, the shortest list in the most languages."""

from __future__ import annotations

_FUNCTION_WORDS = """
a about all also am an and any are as at be because been but by can could did do does for from get give
had has have he her him his how i i'd i'm if in into is it it's its just let like make may me might must
my of on or our out please shall she should so some such tell than that that's the their them then there
these they this those to too us very want was we were what what's when where which who who's whom whose
why will with would you your
"""

_NEGATIONS = {
    "English": "not no never none nor neither nobody nothing nowhere without cannot except unless",
    "German": "nicht kein keine keinen keinem keiner keines nie niemals ohne weder",
    "Dutch": "niet geen nooit zonder",
    "French": "ne pas jamais sans aucun aucune ni",
    "Spanish": "no nunca sin jamás ni ningún ninguna",
    "Portuguese": "não nunca sem nem nenhum nenhuma",
    "Italian": "non mai senza né nessun nessuna",
    "Polish": "nie bez nigdy",
    "Russian": "не нет без никогда ни",
    "Ukrainian": "не ні без немає",
    "Turkish": "değil yok asla",
    "Indonesian": "tidak bukan tanpa jangan",
    "Vietnamese": "không chưa đừng",
    "Arabic": "لا ليس لم لن بدون",
    "Hindi": "नहीं मत बिना",
    # Character by character; in Japanese they are endings of verbs.
    "Chinese": "不 没 沒 无 無 別 别 未 勿",
    "Korean": "않 없 못",
}

_REQUEST_STARTS = """
add advise analyze answer arrange ask assume brainstorm build calculate categorize change choose clarify
classify combine compare complete compose compute consider construct convert correct count create debate
decide define deliver describe design detail determine develop discuss divide draft draw edit elaborate
estimate evaluate examine expand explain explore extract fill find fix formulate generate give guess help
highlight identify illustrate imagine implement improve include invent let list look make mention modify
name offer optimize organize outline paraphrase pick please predict prepare present produce propose prove
provide put rank rate read recommend remove rephrase replace research respond return reverse review revise
rewrite select separate share show simplify simulate solve sort spell split state suggest summarise
summarize take teach tell think transform translate turn use verify write
how what when where which who whose why are can could did do does is should will would may
"""

_REQUESTS_ANYWHERE = {
    "German": "bitte erkläre beschreibe nenne",
    "French": "s'il expliqu décri donne-moi donnez-moi",
    "Spanish, Portuguese, Italian": "favor explica explique dime spiega descrivi",
    "Polish, Russian": "proszę wyjaśnij пожалуйста объясни расскаж опиши",
    "Turkish, Indonesian": "lütfen açıkla tolong jelaskan",
    "Arabic, Hindi": "اشرح فضلك कृपया बताइए",
    "Chinese, Japanese, Korean": "请 請 说明 說明 ください 教えて 주세요",
}

FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words that a rewrite may drop. Those of other languages count as content, of which a rewrite in the
same language keeps its part."""

NEGATIONS = frozenset(" ".join(_NEGATIONS.values()).split())
"""Words that deny or exclude."""

NEGATING_STEMS = ("avoid", "exclu", "preve", "omit", "refra")
"""What English words that do so too begin with."""

NEGATING_ENDINGS = ("ない", "なく", "ません", "ずに")
"""Anywhere in Japanese, which has no spaces."""

REQUEST_STARTS = frozenset(_REQUEST_STARTS.split())
"""First words of sentences in which English asks for something."""

REQUESTS_ANYWHERE = tuple(" ".join(_REQUESTS_ANYWHERE.values()).split())
"""What other languages ask for something with, anywhere in a text."""
