"""Forms of common English words: plurals, the simple past, the -ing form, comparatives and superlatives.

Promise: the words listed here, regular and irregular; a word in one form is one problem. The specialist writes the form
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from evals.tasks.skills.item import Problem, Skill, Split, Wordings

_NOUNS = """
    apple arm artist bag ball bank barn bean bear bed bell belt bird boat book bottle bowl brick bridge brother bucket button
    cake camel camera candle car card carpet carrot castle cat chair chicken city clock cloud coat color computer cook corner
    country cousin cow cup curtain dancer desk doctor dog door dragon dream driver drum duck eagle ear egg elbow engine eye
    farm farmer father feather field finger flag floor flower forest fork friend frog game garden gate ghost girl goat guitar
    hammer hand hat heart hill horse hotel house idea island jacket jar job judge jungle king kite lake lamp lawyer lemon
    letter light lion lip list lock machine map mask meal melon message minute mirror monster month moon morning mountain nail
    name neck needle nest night nurse oak ocean office orange oven owl page paper parent parrot path pear pen pencil picture
    pillow pilot pizza plane planet plant plate pocket pond pool potter prince pump queen question rabbit radio ring river
    road robot rock room root rope rose sailor school seed shirt shoe shop singer sister snake sock song spoon star stone
    storm street student summer table tail teacher tent tiger tower town toy train tree truck uncle van vase village violin
    voice wagon wall whale wheel window winter word worker yard year zebra
    box bus bush bench beach brush church class cross dish dress fox glass kiss lunch match peach sandwich tax watch wish
    ditch branch coach couch crash eyelash glitch inch lens mix patch porch virus waltz address actress princess witness
    baby berry body bunny butterfly candy cherry company diary enemy factory fairy family fly hobby jelly kitty lady library
    memory party penny pony puppy spy story strawberry country ferry army ally battery
    boy day key monkey tray turkey valley donkey chimney journey essay
    """
_ODD_PLURALS = {
    "child": "children", "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth", "mouse": "mice",
    "goose": "geese", "ox": "oxen", "louse": "lice", "knife": "knives", "wife": "wives", "life": "lives",
    "leaf": "leaves", "wolf": "wolves", "half": "halves", "shelf": "shelves", "loaf": "loaves", "thief": "thieves",
    "calf": "calves", "elf": "elves", "self": "selves", "potato": "potatoes", "tomato": "tomatoes", "hero": "heroes",
    "echo": "echoes", "sheep": "sheep", "deer": "deer", "piano": "pianos", "photo": "photos", "roof": "roofs",
    "chef": "chefs", "cliff": "cliffs", "policeman": "policemen", "fireman": "firemen", "grandchild": "grandchildren",
    "housewife": "housewives", "bookshelf": "bookshelves", "snowman": "snowmen",
}  # fmt: skip
_VERBS = """
    add answer ask bark boil borrow brush call clean climb collect cook count cover cross dress enjoy enter explain
    fill finish fix fold follow gather guess help hunt jump kick kiss knock laugh listen look mark melt miss mix need
    offer open order paint park pass pick plant play point pour press pull push rain reach repair rest return roll sail
    shout snow start stay talk thank touch train turn visit wait walk wash watch
    whisper wish work yell
    agree arrive bake behave bounce breathe care change chase close compare complete dance decide decorate describe divide
    encourage erase escape excite explore force glue hate hope imagine invite joke like live love measure move name
    notice place practice prepare promise raise save serve share skate smile taste trade use wave whistle
    bury carry copy cry deny dry empty fry hurry marry reply study supply tidy try worry
    beg chat clap chop drag drop drum grab hop hug jog mop nod pat plan plug rip rub ship shop skip slip snap stir stop
    swap tap trap trim trip wrap zip
    """
_LAST_TWICE = """
    beg chat clap chop drag drop drum grab hop hug jog mop nod pat plan plug rip rub ship shop skip slip snap stir stop
    swap tap trap trim trip wrap zip sit run swim cut get put set win dig begin forget hit let shut spin quit bet
    """
_DOUBLED = frozenset(_LAST_TWICE.split())
_ODD_PASTS = {
    "become": "became", "begin": "began", "bite": "bit", "blow": "blew", "break": "broke", "bring": "brought",
    "build": "built", "buy": "bought", "catch": "caught", "choose": "chose", "come": "came", "cut": "cut", "dig": "dug",
    "do": "did", "draw": "drew", "drink": "drank", "drive": "drove", "eat": "ate", "fall": "fell", "feed": "fed",
    "feel": "felt", "fight": "fought", "find": "found", "fly": "flew", "forget": "forgot", "forgive": "forgave",
    "freeze": "froze", "get": "got", "give": "gave", "go": "went", "grow": "grew", "have": "had", "hear": "heard",
    "hide": "hid", "hit": "hit", "hold": "held", "keep": "kept", "know": "knew", "lead": "led", "leave": "left",
    "lend": "lent", "lose": "lost", "make": "made", "mean": "meant", "meet": "met", "pay": "paid", "put": "put",
    "ride": "rode", "ring": "rang", "rise": "rose", "run": "ran", "say": "said", "see": "saw", "sell": "sold",
    "send": "sent", "shake": "shook", "shoot": "shot", "shut": "shut", "sing": "sang", "sit": "sat", "sleep": "slept",
    "speak": "spoke", "spend": "spent", "stand": "stood", "steal": "stole", "swim": "swam", "take": "took",
    "teach": "taught", "tear": "tore", "tell": "told", "think": "thought", "throw": "threw", "understand": "understood",
    "wear": "wore", "win": "won", "write": "wrote",
}  # fmt: skip
_ADJECTIVES = """
    bright brave broad calm cheap clean clear cold cool dark deep dull fair fast firm fresh full great hard high kind light
    long loud low near neat new old poor proud quick rich rough sharp short slow small smart smooth soft steep strange
    strong sweet tall thick tight tough warm weak wild wise young late large nice safe close wide rare cute
    fine loose pale polite simple
    angry busy crazy dirty dry early easy funny happy healthy heavy hungry lazy lonely lucky messy muddy noisy pretty rainy
    scary silly sleepy sunny tiny ugly windy wealthy
    big hot thin fat sad wet dim flat red slim fit
    """
_DOUBLED_ADJECTIVES = frozenset(("big", "hot", "thin", "fat", "sad", "wet", "dim", "flat", "red", "slim", "fit"))
_ODD_GRADES = {
    "good": ("better", "best"),
    "bad": ("worse", "worst"),
    "little": ("less", "least"),
    "many": ("more", "most"),
}

NOUNS = tuple(dict.fromkeys(_NOUNS.split()))
VERBS = tuple(dict.fromkeys(_VERBS.split()))
ADJECTIVES = tuple(dict.fromkeys(_ADJECTIVES.split()))


def plural(noun: str) -> str:
    """More than one.

    >>> plural("city"), plural("box"), plural("toy"), plural("wolf")
    ('cities', 'boxes', 'toys', 'wolves')
    """
    if noun in _ODD_PLURALS:
        return _ODD_PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


def past(verb: str) -> str:
    """The simple past.

    >>> past("stop"), past("carry"), past("bake"), past("play"), past("go")
    ('stopped', 'carried', 'baked', 'played', 'went')
    """
    if verb in _ODD_PASTS:
        return _ODD_PASTS[verb]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + (verb[-1] if verb in _DOUBLED else "") + "ed"


def ing(verb: str) -> str:
    """The -ing form.

    >>> ing("stop"), ing("bake"), ing("see"), ing("carry")
    ('stopping', 'baking', 'seeing', 'carrying')
    """
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) and verb != "be":
        return verb[:-1] + "ing"
    return verb + (verb[-1] if verb in _DOUBLED else "") + "ing"


def grade(adjective: str, ending: str) -> str:
    """The comparative (`er`) or the superlative (`est`).

    >>> grade("big", "er"), grade("happy", "est"), grade("wide", "er"), grade("good", "est")
    ('bigger', 'happiest', 'wider', 'best')
    """
    if adjective in _ODD_GRADES:
        return _ODD_GRADES[adjective][ending == "est"]
    if adjective.endswith("e"):
        return adjective[:-1] + ending
    if adjective.endswith("y"):
        return adjective[:-1] + "i" + ending
    return adjective + (adjective[-1] if adjective in _DOUBLED_ADJECTIVES else "") + ending


def _forms() -> Mapping[str, Mapping[str, str]]:
    """Per form every word with its answer."""
    verbs = (*VERBS, *_ODD_PASTS)
    adjectives = (*ADJECTIVES, *_ODD_GRADES)
    return {
        "plural": {noun: plural(noun) for noun in (*NOUNS, *_ODD_PLURALS)},
        "past": {verb: past(verb) for verb in verbs},
        "ing": {verb: ing(verb) for verb in verbs},
        "comparative": {adjective: grade(adjective, "er") for adjective in adjectives},
        "superlative": {adjective: grade(adjective, "est") for adjective in adjectives},
    }


FORMS = _forms()
_WORDS = {form: tuple(words) for form, words in FORMS.items()}
_NAMES: Mapping[str, tuple[str, ...]] = {
    "plural": ("plural", "plural form"),
    "past": ("past tense", "simple past", "past form"),
    "ing": ("-ing form", "present participle", "ing form"),
    "comparative": ("comparative", "comparative form"),
    "superlative": ("superlative", "superlative form"),
}
_COMMON = (
    "what is the {f} of {x}?",
    "what's the {f} of {x}?",
    "{f} of {x}",
    "{f} of {x}?",
    "{x}: {f}",
    "{x}, {f}?",
    "give the {f} of {x}.",
    'give the {f} of "{x}".',
    'what is the {f} of "{x}"?',
    "the {f} of {x} is what?",
    "write the {f} of {x}.",
    "write {x} in the {f}.",
    "form the {f} of {x}.",
    "tell me the {f} of {x}.",
    "spell the {f} of {x}.",
)
_HELD = ("which word is the {f} of {x}?", "state the {f} of the word {x}.", "I need the {f} of {x}, please.")
_TEST = ("can you name the {f} of {x}?", 'for "{x}", what would the {f} be?', "find the {f} of the word {x}.")

WORDINGS = {
    "plural": Wordings(
        train=(
            *_COMMON,
            "one {x}, two what?",
            "one {x}, many ...?",
            "how do you write more than one {x}?",
            "I have one {x}. If I get another, I have two what?",
            "make {x} plural.",
            "put {x} into the plural.",
        ),
        held=(*_HELD, "if there are several, what do you call {x}?", "turn {x} into its plural."),
        test=(*_TEST, "there is one {x} here and one there: together two what?", "pluralize {x}."),
    ),
    "past": Wordings(
        train=(
            *_COMMON,
            "today I {x}, yesterday I ...?",
            "today they {x}, yesterday they what?",
            "put {x} into the past tense.",
            "how do you say {x} in the past?",
            "they {x} every day. What did they do yesterday? They ...",
            "change {x} to past tense.",
        ),
        held=(*_HELD, "we {x} now; last week we ...?", "turn {x} into the past tense."),
        test=(*_TEST, "now we {x}, and last year we what?", "how would {x} be in the past tense?"),
    ),
    "ing": Wordings(
        train=(
            *_COMMON,
            "add -ing to {x}.",
            "add ing to {x}",
            "I {x}. Right now I am ...?",
            "they {x}. What are they doing now? They are ...",
            "put {x} into the -ing form.",
            "how do you spell {x} with -ing?",
        ),
        held=(*_HELD, "we {x}; at the moment we are ...?", "turn {x} into its -ing form."),
        test=(*_TEST, "you {x}, so you are what right now?", "how does {x} look with ing at its end?"),
    ),
    "comparative": Wordings(
        train=(
            *_COMMON,
            "this one is {x}, that one is even ...?",
            "{x}, more than that: ...?",
            "put {x} into the comparative.",
            "compare two things with {x}: one is ... than the other.",
        ),
        held=(*_HELD, "turn {x} into the comparative.", "they are {x}; we are even ...?"),
        test=(
            *_TEST,
            "mine is {x}, but yours is even what?",
            "which word says that something is {x} to a higher degree?",
        ),
    ),
    "superlative": Wordings(
        train=(
            *_COMMON,
            "all are {x}, but this one is the ...?",
            "the most {x} one is the what?",
            "put {x} into the superlative.",
            "of three things that are {x}, one is the ...?",
        ),
        held=(*_HELD, "turn {x} into the superlative.", "of all that are {x}, it is the ...?"),
        test=(
            *_TEST,
            "many are {x}, and which word describes the top one?",
            "in a contest of who is {x}, the winner is the what?",
        ),
    ),
}
_SHARES = ("plural", "plural", "past", "past", "ing", "comparative", "superlative")


def draw(rng: Random, split: Split) -> Problem:
    """One word and the form that is asked for; train has more of the irregular ones."""
    form = rng.choice(_SHARES)
    words = _WORDS[form]
    if split == "train" and rng.random() < 0.3:
        words = {"plural": tuple(_ODD_PLURALS), "past": _WORDS["past"][len(VERBS) :]}.get(form, words)
    word = rng.choice(words)
    answer = FORMS[form][word]
    return Problem(form, f"{form} {word}", {"x": word, "f": rng.choice(_NAMES[form])}, answer, "text", answer)


SKILL = Skill("wordforms", "wordforms", draw, WORDINGS)
