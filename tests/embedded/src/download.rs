use crate::Result;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::{io::Read, sync::Arc, time::Duration};
use ureq::{
    Agent,
    tls::{RootCerts, TlsConfig},
};

/// The bytes of `url`, which have the SHA-256 `checksum`.
pub(crate) fn archive(url: &str, checksum: &str) -> Result<Vec<u8>> {
    let bytes = get(url).map_err(|error| format!("{url}: {error}"))?;
    let actual = hex(&Sha256::digest(&bytes));
    if actual != checksum {
        return Err(format!("{url}: its SHA-256 is {actual}, not {checksum}").into());
    }
    Ok(bytes)
}

fn get(url: &str) -> Result<Vec<u8>> {
    let mut response = agent().get(url).call()?;
    let body = response.body_mut();
    let bar = progress(body.content_length())?;
    let mut bytes = Vec::new();
    let reader = body.with_config().limit(MAX_SIZE).reader();
    bar.wrap_read(reader).read_to_end(&mut bytes)?;
    bar.finish();
    Ok(bytes)
}

/// A client that takes the proxy of the environment and trusts the certificates of the machine.
fn agent() -> Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .timeout_resolve(Some(PATIENCE))
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .build()
        .into()
}

/// A bar on a terminal, and nothing elsewhere.
fn progress(size: Option<u64>) -> Result<ProgressBar> {
    let bar = size.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let style = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    Ok(bar.with_style(ProgressStyle::with_template(style)?))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// For each step of a request. A slow download is not interrupted, one that stands still is.
const PATIENCE: Duration = Duration::from_secs(15);

/// An archive has 12 MB.
const MAX_SIZE: u64 = 200 << 20;
