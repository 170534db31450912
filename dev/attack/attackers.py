"""
The attackers of one kind, in a process of their own.

They attack until standard input ends; then the process prints the counted outcomes as JSON.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
from collections import Counter
from datetime import date

from kinds import KINDS, RECONNECT_PAUSE, Attacker

# Real attackers have processors of their own. Here they share those of the service, so the service
# has priority.
NICENESS = 10


def source_of(number: int, many: bool) -> str:
    """Return the address of an attacker; with `many`, each has its own."""
    if not many:
        return "127.0.0.1"
    return f"127.0.{1 + number // 250}.{1 + number % 250}"


async def attack(attacker: Attacker, kind: str) -> None:
    """Run a kind again and again."""
    while True:
        try:
            await KINDS[kind].run(attacker)
        except ConnectionError:
            attacker.outcomes["hung up on"] += 1
        except OSError as error:
            attacker.outcomes[type(error).__name__] += 1
        except TimeoutError:
            # The kind `mixed` ends each attack after some seconds.
            pass
        await asyncio.sleep(RECONNECT_PAUSE)


async def attack_until_input_ends(attackers: list[Attacker], kind: str) -> None:
    """Let all attackers attack until standard input ends, and print their outcomes."""
    # Each attacker attacks over several connections at once, if the kind says so.
    each = attackers * KINDS[kind].connections
    tasks = [asyncio.create_task(attack(attacker, kind)) for attacker in each]
    print("attacking", flush=True)
    input_end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    done, _ = await asyncio.wait([input_end, *tasks], return_when=asyncio.FIRST_COMPLETED)
    # An attack has no end, so a task that is done has failed: that is a bug of this tool.
    for task in done - {input_end}:
        task.result()
    outcomes: Counter[str] = Counter()
    for attacker in attackers:
        outcomes += attacker.outcomes
    print(json.dumps(outcomes), flush=True)
    # Without waiting for connections that hang.
    os._exit(0)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True, help="the kind of attack")
    parser.add_argument("--number", type=int, required=True, help="the number of attackers")
    parser.add_argument("--port", type=int, required=True, help="the port of the service")
    parser.add_argument(
        "--newest", type=date.fromisoformat, required=True, help="the record's newest Monday"
    )
    parser.add_argument(
        "--mondays", type=int, required=True, help="the number of Mondays of the record"
    )
    parser.add_argument("--long-text-on", required=True, help="the Monday with the very long texts")
    parser.add_argument("--many", action="store_true", help="each attacker has its own address")
    options = parser.parse_args()
    os.nice(NICENESS)
    _, max_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))
    attackers = [
        Attacker(
            number=number,
            port=options.port,
            source=source_of(number, options.many),
            newest=options.newest,
            mondays=options.mondays,
            long_text_on=options.long_text_on,
        )
        for number in range(options.number)
    ]
    asyncio.run(attack_until_input_ends(attackers, options.kind))


if __name__ == "__main__":
    main()
