"""A site, written for NVFLARE's client functions: only the import line is another one."""

from __future__ import annotations

import argparse

import digits
import torch
from network import accuracy, network, tensors, train

import cellbus.flare as flare

EPOCHS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="the file with the digits, at this site")
    options = parser.parse_args()
    torch.set_num_threads(1)
    flare.init()
    images, labels = tensors(*digits.part_of(flare.get_site_name(), options.data))
    model = network()
    while flare.is_running():
        input_model = flare.receive()
        model.load_state_dict(input_model.params)
        steps = train(model, images, labels, EPOCHS, seed=input_model.current_round)
        found = accuracy(model, images, labels)
        flare.log("accuracy", found)
        flare.send(
            flare.FLModel(
                params=model.state_dict(),
                metrics={"accuracy": found},
                meta={flare.MetaKey.NUM_STEPS_CURRENT_ROUND: steps},
            )
        )


if __name__ == "__main__":
    main()
