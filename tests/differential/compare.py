"""Plays every case against the servers and compares their replies.

    compare.py                       compares Tidegate with the recorded replies of the reference (expected.json)
    compare.py --reference PROGRAM   runs both; with WRITE=1 records the reference's replies, and writes the page's table
    compare.py --only TEXT           plays the cases whose names contain this text, and shows all differences, listed or not
"""

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path

import aiohttp

import differences
from cases import all_cases
from normal import Normal
from play import Run
from servers import PROFILES, Server

HERE = Path(__file__).resolve().parent
KEPT = HERE / "expected.json"
PAGE = HERE.parent.parent / "docs" / "protocols" / "centrifuge.md"
CASES_AT_ONCE = 24
CASE_SECONDS_MAX = 60


async def play_all(cases, reference, counts):
    """Returns the replies of one kind of server to each case, and the number of events in each step."""
    servers = {profile: Server(profile, reference) for profile in PROFILES if any(case.profile == profile for case in cases)}
    places = asyncio.Semaphore(CASES_AT_ONCE)
    said = {}

    async def play(number, case, session):
        async with places:
            run = Run(servers[case.profile], session, case, f"zq{number:03}z")
            try:
                steps = await asyncio.wait_for(run.play(counts.get(case.name)), CASE_SECONDS_MAX)
            except Exception as error:
                raise AssertionError(f"{case.name}, against the {servers[case.profile].kind}: {error!r}") from error
            told = [{link: len(events) for link, events in step.items() if link != "api"} for step in steps]
            said[case.name] = (Normal(run).outcome(steps), told)

    try:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(play(number, case, session) for number, case in enumerate(cases)))
    finally:
        for server in servers.values():
            server.stop()
    return said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    write = os.environ.get("WRITE") == "1"
    begun = time.monotonic()
    cases = [case for case in all_cases() if arguments.only in case.name]
    whole = not arguments.only
    if arguments.reference:
        reference = asyncio.run(play_all(cases, arguments.reference, {}))
        expected = {name: {"said": said, "events": events} for name, (said, events) in reference.items()}
    else:
        expected = json.loads(KEPT.read_text())
        unkept = [case.name for case in cases if case.name not in expected]
        if unkept:
            raise SystemExit(f"the reference was never asked: {unkept}")
    counts = {name: kept["events"] for name, kept in expected.items()}
    ours = {name: said for name, (said, _) in asyncio.run(play_all(cases, None, counts)).items()}

    differing = {}
    applied = set()
    for case in cases:
        theirs, mine = expected[case.name]["said"], ours[case.name]
        for everywhere in differences.EVERYWHERE:
            ours_changed, theirs_changed = everywhere.even_out(mine), everywhere.even_out(theirs)
            if ours_changed != mine or theirs_changed != theirs:
                applied.add(everywhere.what)
            mine, theirs = ours_changed, theirs_changed
        if mine != theirs:
            differing[case.name] = (mine, theirs)

    problems = []
    listed = {name: difference for difference in differences.LISTED for name in difference.cases}
    for name, (mine, theirs) in differing.items():
        if name not in listed or not whole:
            problems.append(f"{name}{' (listed)' if name in listed else ''}\n{side_by_side(mine, theirs)}")
        elif not write and expected[name].get("here", mine) != mine:
            problems.append(f"{name}: is not the difference that is listed\n{side_by_side(mine, expected[name]['here'], 'as listed')}")
    if whole:
        problems += [f"{name}: is listed, and no longer differs" for name in listed if name not in differing]
        problems += [f"“{one.what}” is listed, and is nowhere" for one in differences.EVERYWHERE if one.what not in applied]
        if write and arguments.reference:
            for name, (mine, _) in differing.items():
                expected[name]["here"] = mine
            lines = [f"{text(name)}: {text(kept)}" for name, kept in sorted(expected.items())]
            KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        page = PAGE.read_text()
        if write:
            PAGE.write_text(differences.written_into(page))
        elif differences.written_into(page) != page:
            problems.append(f"{PAGE.name} does not have the differences that are listed: WRITE=1 writes them")
    for problem in problems:
        print(f"--- {problem}")
    requests = sum(case.name.startswith("API: ") for case in cases)
    print(
        f"{len(cases) - requests} sequences of frames and {requests} requests of the server API:"
        f" {len(differing)} differ, {len(problems)} problems, {time.monotonic() - begun:.0f} s"
    )
    sys.exit(bool(problems))


def side_by_side(mine, theirs, whose="reference"):
    lines = []
    for index, (ours, reference) in enumerate(zip(mine, theirs)):
        for link in sorted({*ours, *reference}):
            if ours.get(link) != reference.get(link):
                lines.append(f"  step {index}, {link}")
                lines += [f"    {whose} {text(reference.get(link))}", f"    tidegate {text(ours.get(link))}"]
    return "\n".join(lines)


def text(what):
    return json.dumps(what, ensure_ascii=False, sort_keys=True)


if __name__ == "__main__":
    main()
