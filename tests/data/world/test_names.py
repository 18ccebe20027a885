from random import Random

from components.data.world.names import Namer

# The commonest given names and surnames of several languages: an invented person must not be taken for a real one.
_REAL_WORDS = """
james mary john patricia robert jennifer michael linda david elizabeth william barbara richard susan joseph jessica
thomas sarah charles karen anna maria olga ivan pierre jean marie hans peter klaus ingrid erik lars sofia elena carlos
juan smith johnson williams brown jones garcia miller davis martinez wilson anderson taylor moore jackson martin lee
thompson white harris clark lewis walker hall young king wright scott green baker adams nelson hill campbell mitchell
roberts mueller schmidt schneider fischer weber meyer wagner becker rossi russo ferrari esposito dubois laurent moreau
novak svoboda kowalski nowak ivanov petrov sidorov hansen johansen olsen larsen andersson karlsson nilsson virtanen nagy
kovacs london paris berlin madrid rome vienna prague oslo boston chicago york moscow dublin lisbon geneva zurich milan
naples
"""
REAL = set(_REAL_WORDS.split())


def test_invented_names_are_no_common_real_ones() -> None:
    for seed in range(20):
        namer = Namer(Random(seed), 1000)
        words = {word.lower() for _ in range(300) for word in f"{namer.person('she')} {namer.person('he')}".split()}
        words |= {namer.place().lower() for _ in range(300)}
        assert not words & REAL


def test_two_seeds_share_almost_no_name() -> None:
    one, other = ({Namer.person(namer, "he") for _ in range(500)} for namer in (Namer(Random(s), 1000) for s in "ab"))
    assert not one & other


def test_names_never_run_out() -> None:
    namer = Namer(Random(0), 100)
    assert len({namer.place() for _ in range(5000)}) == 5000
    assert len({namer.title() for _ in range(5000)} | {namer.event() for _ in range(10_000)}) == 15_000
