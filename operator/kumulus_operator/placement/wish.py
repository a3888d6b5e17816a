"""What a Server asks of a host, from the objects that it refers to (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from kumulus_api import Flavor, Image, Network, Server, ServerGroup, Volume
from kumulus_api.hardware import Hardware
from kumulus_api.quantities import parse_quantity
from kumulus_api.server_status import ScheduledReason
from kumulus_operator.placement.extra_specs import aggregate_specs, traits_of
from kumulus_operator.placement.facts import Group, Terms, Wish
from kumulus_operator.placement.hardware import hardware_of, hardware_traits
from kumulus_operator.placement.usage import allocation_of, amounts_of, bytes_of
from kumulus_operator.refusal import refuse


def terms_of(server: Server, flavor: Flavor, image: Image, hardware: Hardware | None) -> Terms:
    """Give what a server asks beside room."""
    asked = terms_of_flavor(flavor, hardware)
    return replace(
        asked,
        zone=server.spec.placement.zone,
        required=asked.required | frozenset(image.spec.required_traits),
        architecture=image.spec.architecture.value if image.spec.architecture is not None else "",
    )


def terms_of_flavor(flavor: Flavor | None, hardware: Hardware | None) -> Terms:
    """Give what a flavor, and the hardware that comes of it, ask of a host beside room."""
    specs = flavor.spec.extra_specs if flavor is not None else {}
    required, forbidden = traits_of(specs)
    terms = Terms(required=required | hardware_traits(hardware), forbidden=forbidden, specs=aggregate_specs(specs))
    if hardware is None:
        return terms
    return replace(
        terms,
        numa_nodes=hardware.numa_nodes or 0,
        huge_pages=parse_quantity(flavor.spec.memory) if hardware.huge and flavor is not None else 0,
        page_size=hardware.page_size or 0,
    )


def segments_of(networks: Iterable[Network]) -> frozenset[tuple[str, str, int]]:
    """Give the physical networks that a host must reach for interfaces on these networks."""
    places = (network.spec.provider for network in networks)
    return frozenset((item.physical_network, item.type.value, item.mtu) for item in places if item is not None)


def group_of(group: ServerGroup | None) -> Group | None:
    """Give what the ServerGroup of a server asks."""
    if group is None:
        return None
    return Group(group.metadata.name, group.spec.policy, group.spec.max_servers_per_host or 1)


def wish_for(  # noqa: PLR0913 - all that a server refers to
    server: Server,
    flavor: Flavor,
    image: Image,
    group: ServerGroup | None,
    volumes: Iterable[Volume],
    *,
    networks: Iterable[Network] = (),
    classes: Mapping[tuple[str, str], str] | None = None,
) -> Wish:
    """Give what a server asks of a host.

    Args:
        server: which is to be placed.
        flavor: its flavor.
        image: its image.
        group: its server group, or None.
        volumes: those that it is to have, but for new ones that take no room of any host.
        networks: those of its interfaces.
        classes: of the volumes that are not bound, by their keys.

    Raises:
        Refused: flavor and image do not go together; its volumes lie on different hosts, or not where it must run.
    """
    disks = list(volumes)
    hardware = hardware_of(flavor.spec.extra_specs, image.spec.properties, flavor.spec)
    terms = replace(terms_of(server, flavor, image, hardware), segments=segments_of(networks))
    if contradictory := terms.required & terms.forbidden:
        message = (
            f"placement: trait {', '.join(sorted(contradictory))} is required by image {image.metadata.name} and "
            f"forbidden by flavor {flavor.metadata.name}; permanent: use another flavor or image"
        )
        raise refuse(ScheduledReason.NO_VALID_HOST, message)
    amounts = amounts_of(allocation_of(flavor.spec), hardware)
    for item in disks:
        if item.spec.assignment is None:
            amounts = amounts.plus(bytes_of((classes or {}).get(item.key), parse_quantity(item.spec.size)))
    wish = Wish(amounts, terms=terms, group=group_of(group))
    if server.spec.placement.host is not None:
        wish = replace(wish, only_host=server.spec.placement.host, only_reason="asked for by placement")
    for volume in disks:
        place = volume.spec.assignment
        if place is None or place.folder is not None:
            continue
        if wish.only_host is not None and wish.only_host != place.host:
            message = (
                f"placement: volume {volume.metadata.name} lies on host {place.host}, the server must run on "
                f"{wish.only_host} ({wish.only_reason}); permanent: use volumes of one host"
            )
            raise refuse(ScheduledReason.NO_VALID_HOST, message)
        wish = replace(wish, only_host=place.host, only_reason=f"where volume {volume.metadata.name} lies")
    return wish
