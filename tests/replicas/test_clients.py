"""The tests of clients and of OpenAI's shapes, as they are, through gateways and replicas."""

import pytest

from tests.clients.test_openai import *  # noqa: F403
from tests.server.api.test_conformance import *  # noqa: F403

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
