"""Reading what enrolment wrote: the client's configuration. Small, because every process of the service begins with it.

Serves steps 6 to 12. Written by `enrolment` alone; nothing here changes it.
"""

from pcm.model.errors import RequestError
from pcm.protocol.enrolment import ClientConfiguration, read_configuration
from pcm.service.places import Places


def load_configuration(places: Places) -> ClientConfiguration:
    """This client's configuration.

    Raises:
        RequestError: `not_enrolled`, or `protocol.*` if it is damaged.
    """
    try:
        data = places.configuration.read_bytes()
    except FileNotFoundError:
        raise RequestError(
            "This computer is not enrolled; run `pcmsvc enroll --kit FILE`.", code="not_enrolled"
        ) from None
    except OSError as error:
        raise RequestError(
            f"The configuration {places.configuration} cannot be read: {error.strerror}.", code="not_allowed"
        ) from None
    return read_configuration(data)
