"""Painters whom captions name, in lower case as many captioners write them."""

import re

# Given names, which captions may leave out, before the slash. A name without a slash needs all of its words: the last
# one alone also means something else.
_NAMES = """
vincent/van gogh, claude/monet, edouard/manet, pierre-auguste/renoir, auguste/renoir, edgar/degas, paul/cezanne,
paul/gauguin, georges/seurat, paul/signac, camille/pissarro, alfred/sisley, berthe/morisot, mary cassatt, henri/matisse,
pablo/picasso, georges/braque, juan gris, salvador/dali, rene/magritte, joan/miro, max ernst, giorgio/de chirico,
marc/chagall, wassily/kandinsky, paul klee, piet/mondrian, kazimir/malevich, franz marc, august macke,
ernst ludwig/kirchner, egon/schiele, gustav/klimt, oskar/kokoschka, edvard/munch, amedeo/modigliani, henri/rousseau,
henri de/toulouse-lautrec, toulouse lautrec, alphonse/mucha, odilon/redon, gustave/moreau, gustave/courbet,
jean-francois millet, jean-baptiste-camille/corot, eugene/delacroix, jean-auguste-dominique/ingres, jacques-louis david,
francisco/goya, diego/velazquez, el greco, bartolome/murillo, leonardo/da vinci, raphael sanzio, michelangelo
buonarroti, michelangelo, sandro/botticelli, titian, jacopo/tintoretto, paolo/veronese, michelangelo/caravaggio,
giovanni/canaletto, giovanni battista/tiepolo, giuseppe/arcimboldo, artemisia/gentileschi,
rembrandt van rijn, rembrandt, johannes/vermeer, frans hals, jan steen, jacob van/ruisdael, peter paul/rubens,
anthony/van dyck, pieter/bruegel,
pieter/brueghel, hieronymus/bosch, jan/van eyck, rogier/van der weyden, albrecht/durer, lucas/cranach, hans/holbein,
caspar david/friedrich, arnold/bocklin, joseph mallord william turner, william turner, j.m.w. turner, jmw turner,
john constable, thomas/gainsborough, joshua/reynolds, william blake, dante gabriel/rossetti, john everett/millais,
john william waterhouse, lawrence/alma-tadema, james mcneill/whistler, john singer/sargent, winslow homer,
thomas/eakins, frederic edwin church, albert/bierstadt, thomas cole, george inness, edward hopper, grant wood,
georgia o'keeffe, norman/rockwell, andrew/wyeth, jackson/pollock, mark/rothko, willem/de kooning, roy/lichtenstein,
andy warhol, jean-michel/basquiat, keith haring, david hockney, francis bacon, lucian freud, frida/kahlo, diego rivera,
katsushika/hokusai, utagawa/hiroshige, kitagawa/utamaro, yayoi/kusama, takashi/murakami, hayao/miyazaki,
ivan/aivazovsky, ilya/repin, isaac/levitan, ivan/shishkin, nicholas/roerich, mikhail/vrubel, zinaida/serebriakova,
beatrix potter, arthur rackham, thomas/kinkade, bob ross, greg/rutkowski, banksy, hr giger, h.r. giger
"""


def _pattern(name: str) -> str:
    given, slash, surname = name.rpartition("/")
    words = [re.escape(part).replace(r"\ ", r"\s+") for part in (given, surname)]
    return rf"(?:{words[0]}\s+)?{words[1]}" if slash else words[1]


_LONGEST_FIRST = sorted(" ".join(_NAMES.split()).split(", "), key=len, reverse=True)
PAINTER = rf"(?:{'|'.join(map(_pattern, _LONGEST_FIRST))})"  # a pattern, to be matched without regard to case
