"""The attackers of one kind, in a process of their own: they attack until standard input ends, then print outcomes."""

import argparse
import asyncio
import json
import os
import resource
import sys
from collections import Counter
from datetime import date

from kinds import AGAIN, KINDS, Attacker

# Attackers bring processors of their own; where they share ours, the service goes before them.
NICENESS = 10


def source_of(number: int, many: bool) -> str:
    """Return the address that an attacker comes from."""
    return f"127.0.{1 + number // 250}.{1 + number % 250}" if many else "127.0.0.1"


async def attack(attacker: Attacker, kind: str) -> None:
    """Do what the kind does, again and again."""
    while True:
        try:
            await KINDS[kind].run(attacker)
        except ConnectionError:
            attacker.outcomes["hung up on"] += 1
        except OSError as error:
            attacker.outcomes[type(error).__name__] += 1
        except TimeoutError:
            pass
        await asyncio.sleep(AGAIN)


async def all_of(attackers: list[Attacker], kind: str) -> None:
    """Attack until standard input ends."""
    tasks = [asyncio.create_task(attack(one, kind)) for one in attackers for _ in range(KINDS[kind].connections)]
    print("attacking", flush=True)
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    done, _ = await asyncio.wait([over, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for one in done - {over}:
        one.result()  # an attacker never ends by itself: that is a fault of the tool
    outcomes: Counter[str] = sum((one.outcomes for one in attackers), Counter())
    print(json.dumps(outcomes), flush=True)
    os._exit(0)  # connections that hang need no farewell


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True, help="what they do")
    parser.add_argument("--number", type=int, required=True, help="how many they are")
    parser.add_argument("--port", type=int, required=True, help="where the service listens")
    parser.add_argument("--newest", type=date.fromisoformat, required=True, help="the record's newest Monday")
    parser.add_argument("--mondays", type=int, required=True, help="how many it has")
    parser.add_argument("--long-text-on", required=True, help="the Monday with the very long texts")
    parser.add_argument("--many", action="store_true", help="each comes from an address of its own")
    given = parser.parse_args()
    os.nice(NICENESS)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    attackers = [
        Attacker(number, given.port, source_of(number, given.many), given.newest, given.mondays, given.long_text_on)
        for number in range(given.number)
    ]
    asyncio.run(all_of(attackers, given.kind))


if __name__ == "__main__":
    main()
