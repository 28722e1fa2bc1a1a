"""Every field of Istio's own schema (1.31) is known here: read, or said to be left alone. None is called unknown."""

from __future__ import annotations

import json

import pytest

from dougong.errors import Invalid
from dougong.mesh.istio import read_policies

POLICY = """
connectionPool.http.{h2UpgradePolicy http1MaxPendingRequests http2MaxRequests idleTimeout maxConcurrentStreams}
connectionPool.http.{maxRequestsPerConnection maxRetries useClientProtocol}
connectionPool.tcp.{connectTimeout idleTimeout maxConnectionDuration maxConnections}
connectionPool.tcp.tcpKeepalive.{interval probes time}
loadBalancer.consistentHash.{httpHeaderName httpQueryParameterName minimumRingSize useSourceIp}
loadBalancer.consistentHash.httpCookie.{attributes name path ttl}
loadBalancer.consistentHash.maglev.tableSize
loadBalancer.consistentHash.ringHash.minimumRingSize
loadBalancer.localityLbSetting.{enabled failoverPriority}
loadBalancer.localityLbSetting.distribute[].{from to}
loadBalancer.localityLbSetting.failover[].{from to}
loadBalancer.{simple warmupDurationSecs}
loadBalancer.warmup.{aggression duration minimumPercent}
outlierDetection.{baseEjectionTime consecutive5xxErrors consecutiveErrors consecutiveGatewayErrors}
outlierDetection.{consecutiveLocalOriginFailures interval maxEjectionPercent minHealthPercent}
outlierDetection.splitExternalLocalOriginErrors
tls.{caCertificates caCrl clientCertificate credentialName insecureSkipVerify mode privateKey sni subjectAltNames}
"""
WHOLE_POLICY = """
portLevelSettings[].port.number
proxyProtocol.version
retryBudget.{budgetInterval minRetryConcurrency percent}
tunnel.{protocol targetHost targetPort}
"""
DESTINATION_RULE = """
{exportTo host}
subsets[].{labels name trafficPolicy}
workloadSelector.matchLabels
"""
HEADERS = "headers.{request response}.{add remove set}"
DESTINATION = "{host subset port}"
ROUTE = f"""
name
timeout
corsPolicy.{{allowCredentials allowHeaders allowMethods allowOrigin exposeHeaders maxAge unmatchedPreflights}}
corsPolicy.allowOrigins[].{{exact prefix regex}}
delegate.{{name namespace}}
directResponse.status
directResponse.body.{{bytes string}}
fault.abort.{{grpcStatus http2Error httpStatus}}
fault.abort.percentage.value
fault.delay.{{exponentialDelay fixedDelay percent}}
fault.delay.percentage.value
{HEADERS}
match[].{{authority method scheme uri}}.{{exact prefix regex}}
match[].{{headers queryParams withoutHeaders}}.x.{{exact prefix regex}}
match[].{{gateways ignoreUriCase name port sourceLabels sourceNamespace statPrefix}}
mirror.{DESTINATION}
{{mirror_percent mirrorPercent}}
mirrorPercentage.value
mirrors[].destination.{DESTINATION}
mirrors[].percentage.value
redirect.{{authority derivePort port redirectCode scheme uri}}
retries.{{attempts backoff perTryTimeout retryIgnorePreviousHosts retryOn retryRemoteLocalities}}
rewrite.{{authority uri}}
rewrite.uriRegexRewrite.{{match rewrite}}
route[].destination.{DESTINATION}
route[].weight
route[].{HEADERS}
"""
VIRTUAL_SERVICE = "{exportTo gateways hosts http}\n{tcp tls}[].{match route}"


def paths(lines: str, prefix: str = "") -> list[str]:
    """The lines with their braces written out."""
    found: list[str] = []
    waiting = [prefix + line for line in lines.split("\n") if line]
    while waiting:
        line = waiting.pop()
        begin, opened, rest = line.partition("{")
        names, _, end = rest.partition("}")
        if opened:
            waiting += [f"{begin}{name}{end}" for name in names.split()]
        else:
            found.append(line)
    return found


FIELDS = [
    *[f"DestinationRule.{path}" for path in paths(DESTINATION_RULE)],
    *[f"DestinationRule.{path}" for path in paths(POLICY + WHOLE_POLICY, "trafficPolicy.")],
    *[f"DestinationRule.{path}" for path in paths(POLICY, "trafficPolicy.portLevelSettings[].")],
    *[f"DestinationRule.{path}" for path in paths(POLICY + WHOLE_POLICY, "subsets[].trafficPolicy.")],
    *[f"VirtualService.{path}" for path in paths(VIRTUAL_SERVICE)],
    *[f"VirtualService.{path}" for path in paths(ROUTE, "http[].")],
]


def document(path: str) -> str:
    """A rule in which this field is there, and empty."""
    kind, *steps = path.split(".")
    value: object = None
    for step in reversed(steps):
        value = {step.removesuffix("[]"): [value] if step.endswith("[]") else value}
    head = {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": "a"}, "spec": value}
    return json.dumps(head)


def unknown(path: str) -> bool:
    """Whether it is refused as unknown. Everything else about so bare a rule may be wrong."""
    try:
        read_policies({"a": document(path)})
    except Invalid as error:
        return "unknown field" in error.message
    return False


@pytest.mark.parametrize("path", FIELDS)
def test_a_field_of_istios_is_known(path: str) -> None:
    assert not unknown(path)
    assert unknown(f"{path}_")  # and the check can fail


def test_the_list_is_not_short() -> None:
    assert len(FIELDS) == len(set(FIELDS)) > 250
