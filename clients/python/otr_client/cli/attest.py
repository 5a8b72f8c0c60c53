"""`otr attest`: appraise evidence offline, collect it on this machine, check a policy."""

from __future__ import annotations

import datetime
import json
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from otr_client.cli.output import (
    NOT_JUDGED,
    AsJson,
    CommandFailedError,
    emit,
    exit_with,
    out,
    visible,
)
from otr_client.evidence_files import EvidenceFiles
from otr_protocol.attestation import trust_roots
from otr_protocol.attestation.appraise import Verdict, appraise_parts
from otr_protocol.attestation.nvidia.device_claims import device_claims
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.verdict import Finding, Status
from otr_protocol.errors import Refusal

app = typer.Typer(no_args_is_help=True, help="Appraise, collect and set the rules for evidence.")
policies = typer.Typer(no_args_is_help=True, help="Appraisal policies.")
app.add_typer(policies, name="policy")

# What a script can branch on: nothing else ends with these.
EXIT_CODES = {
    Status.AFFIRMING: 0,
    Status.WARNING: 0,
    Status.CONTRAINDICATED: 1,
    Status.INDETERMINATE: 3,
}
_STYLES = {
    Status.AFFIRMING: "bold green",
    Status.WARNING: "bold yellow",
    Status.CONTRAINDICATED: "bold red",
    Status.INDETERMINATE: "bold magenta",
}


def unusable(reason: str, message: str) -> CommandFailedError:
    """What a command raises for arguments and files under which nothing can be judged."""
    return CommandFailedError(reason, message, code=NOT_JUDGED)


@app.command()
def appraise(
    nonce: Annotated[
        str, typer.Option(help="The nonce every device report must carry, 64 hex digits.")
    ] = "",
    gpu_report: Annotated[
        list[Path] | None, typer.Option(help="A GPU's SPDM report: raw, hex or base64.")
    ] = None,
    gpu_chain: Annotated[
        list[Path] | None, typer.Option(help="Its certificate chain, PEM, leaf first.")
    ] = None,
    switch_report: Annotated[list[Path] | None, typer.Option(help="A switch's report.")] = None,
    switch_chain: Annotated[list[Path] | None, typer.Option(help="Its chain.")] = None,
    rim: Annotated[list[Path] | None, typer.Option(help="A reference manifest (XML).")] = None,
    ocsp: Annotated[
        list[Path] | None, typer.Option(help="An OCSP response, DER or base64.")
    ] = None,
    tdx_quote: Annotated[Path | None, typer.Option(help="A TDX quote.")] = None,
    tdx_collateral: Annotated[
        Path | None, typer.Option(help="Intel's collateral for it, JSON.")
    ] = None,
    event_log: Annotated[Path | None, typer.Option(help="The guest's CCEL event log.")] = None,
    snp_report: Annotated[Path | None, typer.Option(help="An SEV-SNP report.")] = None,
    snp_chain: Annotated[
        list[Path] | None, typer.Option(help="VCEK or VLEK, ASK or ASVK and ARK: PEM or DER.")
    ] = None,
    crl: Annotated[list[Path] | None, typer.Option(help="A revocation list, DER.")] = None,
    report_data: Annotated[
        str, typer.Option(help="The 64 bytes the CPU's report must carry, 128 hex digits.")
    ] = "",
    image: Annotated[
        list[str] | None,
        typer.Option(help="An allowed launch measurement, 96 hex digits; adds to the policy's."),
    ] = None,
    at: Annotated[str, typer.Option(help="Appraise as of this time, RFC 3339; default: now.")] = "",
    policy: Annotated[Path | None, typer.Option(help="An appraisal policy, JSON.")] = None,
    revocation: Annotated[
        RevocationMode | None,
        typer.Option(help="What to demand of OCSP; overrides the policy."),
    ] = None,
    trust_roots_file: Annotated[
        Path | None,
        typer.Option("--trust-roots", help="A development TEE's roots, beside the vendors'."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify and appraise evidence from files, without any network.

    Exit code: 0 affirming or warning, 1 contraindicated, 3 indeterminate, 2 wrong usage. Examples:

        otr attest appraise --gpu-report report.bin --gpu-chain chain.pem
        --rim driver.xml --rim vbios.xml --ocsp l2.b64 --ocsp l3.b64 --nonce 931d8dd0...
        --at 2026-02-01T00:00:00Z --revocation as-issued

        otr attest appraise --snp-report report.bin --snp-chain vcek.der --snp-chain ask_ark.pem
        --report-data 00... --json
    """
    files = EvidenceFiles(
        device_reports=[*(gpu_report or []), *(switch_report or [])],
        device_chains=[*(gpu_chain or []), *(switch_chain or [])],
        rims=rim or [],
        ocsp=ocsp or [],
        crls=crl or [],
        tdx_quote=tdx_quote,
        tdx_collateral=tdx_collateral,
        event_log=event_log,
        snp_report=snp_report,
        snp_chain=snp_chain or [],
    )
    if files.device_reports and not nonce:
        raise unusable("ARGUMENT", "--nonce: a report that answers no question proves nothing")
    asked = _hex(nonce, 32, "--nonce") if nonce else bytes(32)
    expected = _hex(report_data, 64, "--report-data") if report_data else None
    try:
        cpu, devices, collateral = files.cpu(), files.devices(), files.collateral()
        rules = _policy(policy, revocation, image or [])
        roots = [trust_roots.VENDOR]
        if trust_roots_file:
            roots.append(trust_roots.decode(trust_roots_file.read_bytes()))
    except Refusal as refusal:
        raise unusable(refusal.reason, refusal.message) from refusal
    verdict = appraise_parts(
        cpu,
        devices,
        gpu_nonce=asked,
        report_data=expected,
        collateral=collateral,
        policy=rules,
        trust_roots=roots,
        now_s=_time(at),
    )
    if as_json:
        emit(document(verdict))
    else:
        _show(verdict)
    raise exit_with(EXIT_CODES[verdict.status])


def document(verdict: Verdict) -> dict[str, Any]:
    """A verdict as one JSON object: everything that it says and rests on, bytes in hex."""
    return {
        "status": verdict.status.name,
        "findings": [_finding(finding) for finding in verdict.findings],
        "verdict_digest": verdict.digest.hex(),
        "evidence_digest": verdict.evidence_digest.hex(),
        "collateral_digest": verdict.collateral_digest.hex(),
        "policy_digest": verdict.policy_digest.hex(),
        "appraised_at": _rfc3339(verdict.appraised_at),
        "not_after": _rfc3339(verdict.not_after),
        "simulated": verdict.simulated,
        "bound": verdict.bound,
        "evidence_claims": _claims(verdict),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "reason": finding.reason,
        "component": finding.component,
        "status": finding.status.name,
        "index": finding.index,
        "golden": finding.golden.hex(),
        "runtime": finding.runtime.hex(),
        "message": finding.message,
    }


def _claims(verdict: Verdict) -> dict[str, Any]:
    """What was verified about each part; nothing about one that did not verify."""
    claims: dict[str, Any] = {}
    if verdict.cpu is not None and verdict.cpu.evidence_claims:
        claims["cpu"] = dict(verdict.cpu.evidence_claims)
    for device in (*verdict.gpus, *verdict.switches):
        if device.report is not None:
            claims[device.component] = device_claims(device)
    return claims


def _show(verdict: Verdict) -> None:
    out.print(verdict.status.name, style=_STYLES[verdict.status], end="  ")
    simulated = "SIMULATED evidence, " if verdict.simulated else ""
    until = f", holds until {_rfc3339(verdict.not_after)}" if verdict.status.trusted else ""
    out.print(f"{simulated}as of {_rfc3339(verdict.appraised_at)}{until}", markup=False)
    if verdict.findings:
        table = Table(show_edge=False, pad_edge=False)
        for column in ("component", "finding", "index", "what"):
            table.add_column(column, overflow="fold")
        for finding in verdict.findings:
            index = "" if finding.index < 0 else str(finding.index)
            table.add_row(
                Text(finding.component),
                Text(finding.reason, style=_STYLES[finding.status]),
                index,
                Text(visible(finding.message)),
            )
        out.print(table)
    for component, claims in _claims(verdict).items():
        out.print(f"\n{component}", style="bold")
        for name in ("hwmodel", "measres", "x-nvidia-gpu-driver-version", "ueid"):
            if name in claims:
                shown = visible(str(claims[name]))
                out.print(f"  {name:32} {shown}", markup=False, soft_wrap=True)
    out.print(f"\nverdict {verdict.digest.hex()}", markup=False, soft_wrap=True)
    if not verdict.bound:
        out.print("note: nothing here says that the parts belong to one machine")


@app.command()
def collect(
    destination: Annotated[Path, typer.Option("--out", help="Directory for what is collected.")],
    nonce: Annotated[str, typer.Option(help="32 bytes, 64 hex digits; default: fresh.")] = "",
    no_gpu: Annotated[bool, typer.Option(help="Leave out the GPUs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Collect this machine's own evidence under one nonce: its CPU TEE's report and its GPUs'.

    For looking at a machine by hand; what serves answers binds its evidence to its keys instead.

    Example:
        otr attest collect --out evidence --nonce 931d8dd0...
    """
    try:
        from otr_attester.hardware import HardwareAttester
    except ModuleNotFoundError as error:
        message = f"{error.name} is missing: pip install 'otr-client[collect]'"
        raise unusable("ATTESTER_NOT_INSTALLED", message) from None

    asked = _hex(nonce, 32, "--nonce") if nonce else secrets.token_bytes(32)
    cpu, devices = HardwareAttester.of_this_machine(gpus=not no_gpu).collect_under_nonce(asked)
    destination.mkdir(parents=True, exist_ok=True)
    contents = {f"cpu_report_{cpu.kind}.bin": cpu.report}
    for number, der in enumerate(cpu.certificates):
        contents[f"cpu_certificate_{number}.der"] = der
    if cpu.event_log:
        contents["cpu_event_log.bin"] = cpu.event_log
    for number, device in enumerate(devices):
        contents[f"gpu_{number}_report.bin"] = device.report
        contents[f"gpu_{number}_chain.pem"] = b"".join(map(_pem, device.certificates))
    for name, content in contents.items():
        (destination / name).write_bytes(content)
    if as_json:
        emit({"nonce": asked.hex(), "files": [str(destination / name) for name in contents]})
        return
    out.print(f"nonce {asked.hex()}", soft_wrap=True)
    for name, content in contents.items():
        out.print(f"{destination / name}  {len(content)} bytes", markup=False, soft_wrap=True)


@policies.command()
def check(
    file: Annotated[Path, typer.Argument(help="A policy, JSON.", exists=True, dir_okay=False)],
    as_json: AsJson = False,
) -> None:
    """Read a policy, say its digest, and where it differs from the default.

    Nothing is judged by it. Example:

        otr attest policy check policy.json
    """
    found = _read_policy(file)
    default, mapping = Policy().to_mapping(), found.to_mapping()
    changes = {name: mapping[name] for name in mapping if mapping[name] != default[name]}
    if as_json:
        emit(
            {
                "policy_digest": found.digest.hex(),
                "audit_only": found.revocation.audit_only,
                "policy": mapping,
                "changes": changes,
            }
        )
        return
    out.print(f"policy {found.digest.hex()}", soft_wrap=True)
    for name, value in changes.items():
        out.print(f"  {name} = {json.dumps(value)}", markup=False, soft_wrap=True)
    if found.revocation.audit_only:
        out.print("audit only: no token is ever issued under it", style="yellow")
    if not (found.cpu_measurements or found.sgx_enclaves):
        out.print("names no CPU image: every machine stays INDETERMINATE", style="yellow")


def _policy(file: Path | None, revocation: RevocationMode | None, images: list[str]) -> Policy:
    # Without a policy of its own an audit judges what it was given, as many devices as there are.
    found = _read_policy(file) if file else Policy(required_gpus=0)
    if images:
        added = {_hex(image, 48, "--image") for image in images}
        found = replace(found, cpu_measurements=tuple(sorted({*found.cpu_measurements, *added})))
    if revocation is not None:
        found = replace(found, revocation=revocation)
    return found


def _read_policy(file: Path) -> Policy:
    try:
        mapping = json.loads(file.read_bytes())
    except ValueError as error:
        raise unusable("ARGUMENT", f"{file}: not JSON") from error
    if not isinstance(mapping, dict):
        raise unusable("ARGUMENT", f"{file}: a policy is one JSON object")
    return Policy.from_mapping(mapping)


def _hex(text: str, size: int, option: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise unusable("ARGUMENT", f"{option}: {2 * size} hex digits")
    return value


def _time(text: str) -> int:
    if not text:
        return int(time.time())
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise unusable("ARGUMENT", "--at: a time like 2026-02-01T00:00:00Z") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())


def _rfc3339(seconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _pem(der: bytes) -> bytes:
    import ssl

    return ssl.DER_cert_to_PEM_cert(der).encode()
