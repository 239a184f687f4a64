"""``assl_kit.app.train_bank`` for ``accelerate launch --use_fsdp`` on a CPU, where accelerate alone divides nothing."""

import accelerate.state
from accelerate.utils import DistributedType

from assl_kit.app.train_bank import main
from assl_kit.experts.training import trainer

whole_weights, state_of_launch = trainer.adapter_weights, accelerate.state.AcceleratorState.__init__


def state_on_cpu(self, *args, fsdp_plugin=None, **kwargs):
    state_of_launch(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin


def counted_weights(model):
    weights = list(model.parameters())
    print(f"holds {sum(w.to_local().numel() for w in weights) / sum(w.numel() for w in weights):.2f} of the weights")
    return whole_weights(model)


if __name__ == "__main__":
    accelerate.state.AcceleratorState.__init__ = state_on_cpu
    trainer.adapter_weights = counted_weights
    main()
