"""Takes the style out of a caption: what a picture shows stays, how and by whom it is painted goes.

A training prompt says everything but the style, since what it leaves out becomes the style (Ahn et al. 2024, section
3.2). Captions of paintings speak of the painting: "a watercolor painting of a house by the sea, by Claude Monet".
"""

import re

from dreamstyler_jax.captioning.painter_names import PAINTER

# The patterns below are verbose and see no difference between capital and small letters.
_KIND = r"""(?: painting | picture | image | photo | photograph | drawing | sketch | illustration | artwork | print
    | poster | (?: self[\s-] )? portrait | engraving | etching | lithograph | woodcut | linocut | watercolou?r | gouache
    | fresco | mural | mosaic | collage | rendering | cartoon | depiction | masterpiece | (?: work | piece )\s+of\s+art
    | (?: pixel | line | digital )\s+art )"""
_SHOWS = r"(?: shows | depicts | portrays | represents | presents | features | illustrates | captures | contains )"
_SHOWING = rf"""(?: of | showing | depicting | portraying | representing | featuring | with
    | (?: that | which )\s+{_SHOWS} )"""
_IS = r"(?: is | are | (?: appears | seems )\s+to\s+be )"
_STOP = r"""(?: an? | the | this | that | of | in | on | onto | by | at | with | without | and | near | beside | behind
    | under | over | above | from | for | to | as | against | while | where | which | during | through | into | showing
    | depicting | it | its | has | have | is | are )\b"""
_DOING = r"(?! striking | stunning | charming | amazing | captivating )[\w-]+ing\b"
_FREE = rf"(?: (?! {_STOP} | {_DOING} )[\w'-]+,?\s+ )"  # a word before a noun
_COUNT = r"(?: an? | the | one | two | three | four | five | six | some | several | many | no )"
_BLACK_AND_WHITE = r"(?: black[\s-]+(?: and | & )[\s-]+white )"
_MEDIUM = r"""(?: (?: oils? | acrylics? | tempera )(?: \s+paints? | \s+colou?rs )? | watercolou?rs? | gouache
    | pastels? | charcoal | crayons? | (?: colou?red\s+ )?pencils? | graphite | (?: pen\s+and\s+ )?ink | chalk )"""
_ONLY_A_MEDIUM = r"(?: oils | oil\s+paints? | watercolou?rs? | acrylics | gouache | tempera | pastels )"
_GROUND = r"(?: canvas | paper | cardboard | board | panel | linen )"
_MOVEMENT = r"""(?: (?: (?: post | neo | abstract | magic )[\s-]* )?
    (?: impression | expression | surreal | real | futur | minimal )is[mt](?: ic )?
    | cubis[mt] | fauvis[mt] | pointillis[mt] | symbolis[mt] | romanticism | baroque | rococo
    | art\s+(?: nouveau | deco ) | (?: pop | folk | pixel )\s+art | ukiyo[\s-]?e | abstract | naive
    | cartoon(?: ish )? | anime | manga | comic(?: \s+book )? | painterly | artistic | watercolou?r | sketchy
    | mosaic | woodcut )"""
_MADE = r"""(?: \b(?: as\s+if\s+ )?
    (?: painted | drawn | made | done | created | rendered | executed | illustrated | sketched )\s+ )"""
_ARTIST = r"(?: (?: an? | the )\s+ )? (?: \w+\s+ ){0,2}? (?: artist | painter | illustrator | master )s?"
_NAME = rf"(?: {PAINTER} (?: (?: \s*,\s* | \s*&\s* | \s+and\s+ ){PAINTER} )* )"
_PALETTE = r"""(?: (?: muted | warm | cool | cold | bright | vivid | vibrant | bold | dark | pale | soft | pastel
    | earthy? | subdued | sombre | golden | rosy | mossy | rich | sepia )(?: \s*,\s* | \s+and\s+ | \s+ ) )+
    (?: colou?rs? | tones? | hues? | shades | palette )"""
_TOUCH = r"""(?: thick | thin | loose | visible | bold | swirling | swirly | short | long | expressive | textured
    | heavy | broad | quick | fine | soft | strong | dynamic | delicate | sweeping | small | large | wide
    | rough | energetic | clearly | very )"""
_STROKES = r"""(?: brush[\s-]?strokes | brush[\s-]?work | impasto | (?: cross[\s-]? )?hatching
    | dabs\s+of\s+(?: paint | colou?r ) )"""

# What begins a caption, or a sentence of it, and says only that there is a picture.
_OPENINGS = rf"""
    (?: (?: an? | the | this | one | another )\s+ )?
        (?: close[\s-]?up\s+(?: view\s+ )?of\s+(?: (?: an? | the )\s+ )? )?
        (?: {_BLACK_AND_WHITE}\s+ )? {_FREE}{{0,4}} {_KIND}\s+
        (?: by\s+(?: (?! {_SHOWING}\b )[\w.'-]+\s+ ){{1,5}} )?
        (?: {_SHOWING} | (?: mainly\s+ | clearly\s+ )?{_SHOWS} | {_IS}(?: \s+{_SHOWING} )? )\b
  | (?: in | on )\s+(?: this | the )\s+{_FREE}{{0,3}} {_KIND},?\s+ (?: we\s+(?: can\s+ )?see\b )?
  | (?: this | there | here | it )\s+(?: is | are )\b (?= \s+(?: {_COUNT} | {_FREE}{{0,4}} {_KIND} )\b )
  | it\s+{_SHOWS}\b
  | (?: an? | the | this )?\s*\b (?: (?: {_BLACK_AND_WHITE} | {_MOVEMENT} | {_MEDIUM} | {_NAME} )\s+ )* {_KIND}\s*
        (?= $ | , | \bby\b | \bin\s+the\s+style\b )
"""
# What says in the middle of a caption how it is painted.
_CLAUSES = rf"""
    ,?\s*{_MADE}?\b(?: in | with | of | has | having )\s+(?: (?: an? | the )\s+ )? {_FREE}{{0,3}}
        (?: style | manner | fashion )s?\s+(?: of | similar\s+to | reminiscent\s+of | inspired\s+by )\s+
        (?: {_NAME} | (?: (?: an? | the )\s+ )? (?: (?! {_STOP} )[\w.'-]+\s* ){{1,5}} )
  | ,?\s*{_MADE}?\b(?: in | with | has | having )\s+(?: (?: an? | the )\s+ )?
        (?: (?: loose | simple | very | highly | {_MOVEMENT} | {_MEDIUM} | {_BLACK_AND_WHITE} | {_NAME}(?: 's )? )
            [\s,-]+ )+
        (?: art\s+ | painting\s+ )? (?: style | manner )\b
  | ,?\s*{_MADE}?\bby\s+(?: {_ARTIST}\s+ )? {_NAME}\b
  | ,?\s*{_MADE}\bby\s+(?: {_ARTIST}\s+ )? (?-i: [A-Z][\w.'-]* (?: \s+[A-Z][\w.'-]* )* )
  | ,?\s*{_MADE}\bby\s+{_ARTIST}\b
  | ,?\s*\b(?: like | (?: inspired | influenced )\s+by | reminiscent\s+of | similar\s+to | after )\s+(?: an?\s+ )?
        {_NAME}\b (?: 's )? (?: [\s-]+(?: painting | style | work )s?\b )?
  | \b{_NAME}(?: [\s-]+(?: style | like | esque | inspired )\b | 's\b )
  | ,?\s*(?: {_MADE} | \b(?: in | with | using )\s+ )? \b{_MEDIUM}(?: \s+and\s+{_MEDIUM} )?\s+on\s+{_GROUND}\b
  | ,?\s*(?: {_MADE}(?: in | with | using | on )\s+(?: {_MEDIUM} | {_GROUND} | {_BLACK_AND_WHITE} )
        | \b(?: in | using )\s+{_ONLY_A_MEDIUM} | \bon\s+canvas ) (?! \s+(?: of | shoes | bags? )\b )\b
  | ,?\s*\b(?: with | using | in | has | and )\s+(?: an?\s+ )? (?: {_TOUCH},?\s+(?: and\s+ )? )* {_STROKES}\b
        (?: \s+and\s+{_PALETTE} )?
  | ,?\s*(?<! dressed\s )(?<! clad\s )(?<! clothed\s )\bin\s+
        (?: {_BLACK_AND_WHITE} | sepia | monochrome | gr[ae]yscale | {_PALETTE} )(?= \s*(?: $ | [.,;] ) )
  | ,\s*(?: (?: very | highly )\s+ )?
        (?: {_MOVEMENT} | {_MEDIUM} | detailed | masterpiece | trending\s+on\s+\w+ | {_KIND} | 4k | 8k )
        (?: \s+(?: art | style | painting ) )?\s*(?= $ | [.,;] )
  | \baraf\w*\s*  # a word that BLIP made up
"""
# Sentences about the painting, after the first.
_ABOUT = r"""
    (?: the | this | its | overall,?(?: \s+the )? )\s+(?: overall\s+ )?
    (?: (?: [\w'-]+\s+ ){0,2}? (?: painting | image | artwork | picture | style | composition | artist | painter )\s+
            (?: itself\s+ )? (?: is | are | has | uses | used | was | were | appears | seems | looks | conveys | evokes
            | gives | employs | creates | adds )
        | (?: colou?rs?\s+ )?palette | colou?rs | brush[\s-]?(?: strokes | work ) | technique | mood )\b .*
"""
_FLAGS = re.VERBOSE | re.IGNORECASE
OPENINGS, CLAUSES = re.compile(rf"\s*(?:{_OPENINGS})", _FLAGS), re.compile(rf"(?:{_CLAUSES})", _FLAGS)
ABOUT = re.compile(_ABOUT, _FLAGS)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_DANGLING = re.compile(r"(?:[\s,;:.!-]|\b(?:and|with|in|of|by|on|at|as|an?|the))+$", re.IGNORECASE)


def without_style(caption: str) -> tuple[str, tuple[str, ...]]:
    """Removes the words about the style from a caption.

    Words that may be part of the subject stay: "a house by the sea", "a painting on the wall", "a black and white cat".

    Args:
        caption: one or several sentences.

    Returns:
        What the picture shows, as words that can follow "A painting of", and the phrases that were removed. Removing
        again changes nothing.
    """
    text, removed = " ".join(caption.replace("\u2019", "'").split()).strip("\"'`* \u201c\u201d"), []
    while True:
        shorter = _once(text, removed)
        if shorter == text:
            return text, tuple(removed)
        text = shorter


def _once(text: str, removed: list[str]) -> str:
    """Removes what can be found in one pass; adds it to ``removed``."""

    def remove(match: re.Match[str]) -> str:
        removed.append(match[0].strip(" ,"))
        return " "

    kept: list[str] = []
    for sentence in _SENTENCE_END.split(text):
        if kept and ABOUT.match(sentence):
            removed.append(sentence)
            continue
        shows = CLAUSES.sub(remove, OPENINGS.sub(remove, sentence, count=1) if OPENINGS.match(sentence) else sentence)
        shows = _DANGLING.sub("", re.sub(r"\s+(?=[,.;])|^[\s,;]+", "", re.sub(r"\s+", " ", shows)))
        if shows := shows.strip():
            kept.append(shows)
    return ", ".join(kept)
