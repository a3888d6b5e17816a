"""What a Server asks of a host, from the objects that it refers to (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kumulus_api import Flavor, Image, Server, ServerGroup, Volume
from kumulus_api.quantities import parse_quantity
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.placement.extra_specs import aggregate_specs, traits_of
from kumulus_operator.placement.facts import Amounts, Group, Terms, Wish
from kumulus_operator.refusal import refuse


def terms_of(server: Server, flavor: Flavor, image: Image) -> Terms:
    """Give what a server asks beside room."""
    required, forbidden = traits_of(flavor.spec.extra_specs)
    return Terms(
        zone=server.spec.placement.zone,
        required=required | frozenset(image.spec.required_traits),
        forbidden=forbidden,
        specs=aggregate_specs(flavor.spec.extra_specs),
        architecture=image.spec.architecture.value if image.spec.architecture is not None else "",
    )


def group_of(group: ServerGroup | None) -> Group | None:
    """Give what the ServerGroup of a server asks."""
    if group is None:
        return None
    return Group(group.metadata.name, group.spec.policy, group.spec.max_servers_per_host or 1)


def wish_for(
    server: Server, flavor: Flavor, image: Image, group: ServerGroup | None, volumes: Iterable[Volume]
) -> Wish:
    """Give what a server asks of a host.

    Raises:
        Refused: its volumes lie on different hosts, or not where it must run.
    """
    spec, disks = flavor.spec, list(volumes)
    terms = terms_of(server, flavor, image)
    if contradictory := terms.required & terms.forbidden:
        message = (
            f"placement: trait {', '.join(sorted(contradictory))} is required by image {image.metadata.name} and "
            f"forbidden by flavor {flavor.metadata.name}; permanent: use another flavor or image"
        )
        raise refuse(ScheduledReason.NO_VALID_HOST, message)
    new_volumes = sum(parse_quantity(item.spec.size) for item in disks if item.spec.assignment is None)
    amounts = Amounts(spec.vcpus, parse_quantity(spec.memory), parse_quantity(spec.root_disk) + new_volumes)
    wish = Wish(amounts, terms=terms, group=group_of(group))
    if server.spec.placement.host is not None:
        wish = replace(wish, only_host=server.spec.placement.host, only_reason="asked for by placement")
    for volume in disks:
        place = volume.spec.assignment
        if place is None:
            continue
        if wish.only_host is not None and wish.only_host != place.host:
            message = (
                f"placement: volume {volume.metadata.name} lies on host {place.host}, the server must run on "
                f"{wish.only_host} ({wish.only_reason}); permanent: use volumes of one host"
            )
            raise refuse(ScheduledReason.NO_VALID_HOST, message)
        wish = replace(wish, only_host=place.host, only_reason=f"where volume {volume.metadata.name} lies")
    return wish
