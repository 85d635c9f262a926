"""The trainer, on a disk that is full while the checkpoints of chosen steps are written."""

import resource
import time

from vitjax import train
from vitjax.checkpoints.checkpointer import Checkpointer


def run(steps, argv):
    """The command, with a limit on the size of files in place of a full disk."""
    save = Checkpointer.save
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_full_disk(self, step, *args):
        if step not in steps:
            return save(self, step, *args)
        self.poll(wait=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        try:
            save(self, step, *args)
            while self._manager.is_saving_in_progress():
                time.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    Checkpointer.save = save_on_full_disk
    return train.main(argv)
