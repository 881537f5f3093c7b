"""The steps of an exchange, of which an algorithm is written.

>>> from jfedsl import Algorithm, steps
>>> def exchange(x, server, clients):
...     clients, batch = steps.draw_batch(x, clients)
...     clients, smashed, client_vjp = steps.client_forward(x, clients, batch.inputs)
...     clients, up = steps.send_up(x, clients, smashed, batch.lengths)
...     server, losses, cut_gradient = steps.joint_step(x, server, up, batch.labels)
...     clients, down = steps.send_down(x, clients, cut_gradient, up.kept)
...     clients = steps.client_step(x, clients, client_vjp(up.vjp(down.values)))
...     sent = {steps.SMASHED.column: up.bytes, steps.CUT_GRADIENT.column: down.bytes}
...     return steps.Outcome(server, clients, losses, up.took_part(), sent)
>>> Algorithm(exchange).streams == steps.SPLIT_STREAMS
True

`x` is an `Exchange`: what the steps share. Arrays of clients have a leading axis `[P]`, one row for
each.
"""

from jfedsl.engine.auxiliary import auxiliary_losses as auxiliary_losses
from jfedsl.engine.auxiliary import fit_auxiliary as fit_auxiliary
from jfedsl.engine.batch import Batch as Batch
from jfedsl.engine.batch import draw_batch as draw_batch
from jfedsl.engine.client_step import client_forward as client_forward
from jfedsl.engine.client_step import client_step as client_step
from jfedsl.engine.exchange import Exchange as Exchange
from jfedsl.engine.exchange import Outcome as Outcome
from jfedsl.engine.exchange import Reported as Reported
from jfedsl.engine.server_step import joint_step as joint_step
from jfedsl.engine.server_step import output_losses as output_losses
from jfedsl.engine.server_step import server_forward as server_forward
from jfedsl.engine.server_step import step_copies as step_copies
from jfedsl.engine.server_step import step_in_turn as step_in_turn
from jfedsl.engine.streams import CLIENT_GRADIENT as CLIENT_GRADIENT
from jfedsl.engine.streams import CUT_GRADIENT as CUT_GRADIENT
from jfedsl.engine.streams import MODEL_DOWN as MODEL_DOWN
from jfedsl.engine.streams import MODEL_UP as MODEL_UP
from jfedsl.engine.streams import SMASHED as SMASHED
from jfedsl.engine.streams import SPLIT_STREAMS as SPLIT_STREAMS
from jfedsl.engine.streams import Stream as Stream
from jfedsl.engine.tail import tail_losses as tail_losses
from jfedsl.engine.transmit import at_hand as at_hand
from jfedsl.engine.transmit import broadcast as broadcast
from jfedsl.engine.transmit import send_activation_down as send_activation_down
from jfedsl.engine.transmit import send_down as send_down
from jfedsl.engine.transmit import send_gradient_up as send_gradient_up
from jfedsl.engine.transmit import send_up as send_up
