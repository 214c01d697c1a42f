"""Prints what signing costs, in CPU time on this machine: `python -m tests.integration.trust.signing_cost`. Asserts nothing."""

import sys
import time

from pcm.protocol.instructions import read_instructions, write_instructions
from pcm.trust import instruction_repository, keys
from tests.unit.trust.simulated import ME, SimulatedSite, a_manifest, instruction_for

ROUNDS = 2000


def main() -> None:
    policy, lease = keys.generate(), keys.generate()
    manifest = a_manifest()
    site = SimulatedSite()
    body = site.body(instructions=[instruction_for(manifest, number=number) for number in range(1, 51)])
    instructions = read_instructions(body)
    begun = time.process_time()
    for number in range(ROUNDS):
        now = 1_800_000_000_000 + number
        signed = instruction_repository.sign_instructions(ME, write_instructions(instructions), policy, now)
        instruction_repository.sign_lease(signed.targets, lease, now, targets_version=now)
    publish = (time.process_time() - begun) / ROUNDS
    begun = time.process_time()
    for number in range(ROUNDS):
        instruction_repository.sign_lease(signed.targets, lease, 1_900_000_000_000 + number)
    renew = (time.process_time() - begun) / ROUNDS
    sys.stdout.write(f"publish one client, 50 instructions, {len(body)} bytes: {publish * 1e3:.3f} ms\n")
    sys.stdout.write(f"renew one lease: {renew * 1e3:.3f} ms\n")


if __name__ == "__main__":
    main()
