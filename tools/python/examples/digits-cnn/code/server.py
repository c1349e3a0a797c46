"""The server: averages what the sites hand in, then compares with training in one place."""

from __future__ import annotations

import argparse
import json
import sys

import digits
import torch
from network import accuracy, network, tensors, train

import cellbus

MARGIN = 0.02
"""How much less accurate the federated model may be."""
EPOCHS = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="the file with the digits: the rows for testing count")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train_images, train_labels, test_images, test_labels = digits.load(options.data)
    images, labels = tensors(test_images, test_labels)

    averaging = cellbus.FedAvg(
        network().state_dict(),
        rounds=options.rounds,
        on_round=lambda done, _: print(f"round {done.number}: {done.metrics} of {len(done.sites)} sites", flush=True),
    )
    federated, central = network(), network()
    with cellbus.connect() as bus:
        federated.load_state_dict(averaging.run(bus))
    for number in range(options.rounds):
        train(central, *tensors(train_images, train_labels), EPOCHS, seed=number)
    found = {"federated": accuracy(federated, images, labels), "central": accuracy(central, images, labels)}
    print(json.dumps(found), flush=True)
    return 0 if found["federated"] >= found["central"] - MARGIN else 1


if __name__ == "__main__":
    sys.exit(main())
