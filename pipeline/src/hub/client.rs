//! HTTP towards a hub: one GET that knows tokens, redirects, proxies and which failures may pass.
//!
//! Redirects are followed by hand, because a hub answers a file with the address of a content network:
//! the token goes to the hub's own scheme, host and port and to no other, and https never becomes http.

use std::io::Read;
use std::time::Duration;

use indicatif::ProgressBar;
use puyu_tensor::{Context as _, Error, Result};
use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsConfigBuilder, parse_pem};
use ureq::{Agent, Body, Proxy};

use super::{Hub, HubKind, env};

/// Listings of the largest repositories are a few MB; more than this is no listing.
const LARGEST_LISTING: u64 = 64 << 20;
/// Listings come in pages; a server that never ends is cut off here.
const MOST_PAGES: usize = 1000;
const MOST_REDIRECTS: usize = 10;

/// A request that failed, and whether the same request may succeed later.
pub(super) struct Failure {
    error: Error,
    passing: bool,
    wait: Option<Duration>,
}

impl Failure {
    /// A failure that trying again may cure: a cut link, an overloaded server.
    pub(super) fn passing(message: impl Into<String>) -> Self {
        Self { error: Error::network(message), passing: true, wait: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, passing: false, wait: None }
    }
}

/// Counts failures in a row and waits longer after each.
pub(super) struct Retry<'a> {
    hub: &'a Hub,
    bar: &'a ProgressBar,
    failures: u32,
}

impl<'a> Retry<'a> {
    /// No failures yet; `bar` makes room for what is said about later ones.
    pub(super) fn new(hub: &'a Hub, bar: &'a ProgressBar) -> Self {
        Self { hub, bar, failures: 0 }
    }

    /// Forgets earlier failures, because something has arrived since.
    pub(super) fn progress(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt, twice as long each time.
    ///
    /// # Errors
    /// The failure is final, or it was one too many.
    pub(super) fn after(&mut self, failure: Failure) -> Result<()> {
        if !failure.passing {
            return Err(failure.error);
        }
        if self.failures == self.hub.retries {
            let times = self.failures + 1;
            return Err(Error::network(format!(
                "{}; tried {times} times; run the same command again to go on from here \
                 (a mirror is set by HF_ENDPOINT, a proxy by HTTPS_PROXY)",
                failure.error
            )));
        }
        let wait = failure.wait.unwrap_or(self.hub.first_wait * 2u32.pow(self.failures.min(16)));
        let wait = wait.min(Duration::from_secs(60));
        self.bar.suspend(|| eprintln!("{}; trying again in {wait:?}", failure.error));
        std::thread::sleep(wait);
        self.failures += 1;
        Ok(())
    }
}

/// The agents of one pull: proxies differ by scheme, and some hosts are reached without.
pub(super) struct Client<'a> {
    hub: &'a Hub,
    repo: String,
    direct: Agent,
    http: Option<Agent>,
    https: Option<Agent>,
}

impl<'a> Client<'a> {
    /// A client for `repo` on `hub`, with the proxies and certificates of the environment.
    pub(super) fn new(hub: &'a Hub, repo: &str) -> Result<Self> {
        let proxied = |names: &[&'static str]| -> Result<Option<Agent>> {
            let Some((name, address)) = env::first(names) else { return Ok(None) };
            let proxy = Proxy::new(&address).map_err(|e| {
                Error::invalid(format!("{name}={address} is no proxy address: {e}"))
            })?;
            Ok(Some(agent(hub, Some(proxy))?))
        };
        Ok(Self {
            hub,
            repo: repo.to_string(),
            direct: agent(hub, None)?,
            http: proxied(&["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])?,
            https: proxied(&["https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])?,
        })
    }

    /// GETs the JSON at `url`, which is below the hub's endpoint, and the query of the next page.
    pub(super) fn json<T: DeserializeOwned>(&self, url: &str) -> Result<(T, Option<String>)> {
        let bar = ProgressBar::hidden();
        let mut retry = Retry::new(self.hub, &bar);
        loop {
            match self.json_once(url) {
                Ok(found) => return Ok(found),
                Err(failure) => retry.after(failure)?,
            }
        }
    }

    /// GETs all pages of a listing that begins at `url`.
    pub(super) fn pages<T: DeserializeOwned>(&self, url: String) -> Result<Vec<T>> {
        let mut all = Vec::new();
        let mut next = Some(url);
        for _ in 0..MOST_PAGES {
            let Some(url) = next else { return Ok(all) };
            let (page, query): (Vec<T>, _) = self.json(&url)?;
            all.extend(page);
            // Only the query is taken over: a mirror may hand through the address of the original.
            let here = url.split('?').next().unwrap_or(&url);
            next = query.map(|query| format!("{here}?{query}"));
        }
        Err(Error::network(format!("the listing of {} does not end", self.repo)))
    }

    fn json_once<T: DeserializeOwned>(&self, url: &str) -> Result<(T, Option<String>), Failure> {
        let response = self.get(url, 0)?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(&response, url));
        }
        let next = text(response.headers(), "link").and_then(next_page);
        let mut bytes = Vec::new();
        let mut reader = response.into_body().into_reader().take(LARGEST_LISTING);
        reader.read_to_end(&mut bytes).map_err(|e| Failure::passing(format!("{url}: {e}")))?;
        let value = serde_json::from_slice(&bytes).map_err(|e| {
            Error::format(format!("{url} answered with something else than a listing: {e}"))
        })?;
        Ok((value, next))
    }

    /// GETs `url` from byte `from` on, through redirects, and hands back any answer that is none.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Response<Body>, Failure> {
        let home = parse(&self.hub.endpoint)?;
        let mut at = parse(url)?;
        for _ in 0..=MOST_REDIRECTS {
            let mut request =
                self.agent_for(&at).get(at.clone()).header("accept-encoding", "identity");
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            if let Some(token) = self.hub.token.as_ref().filter(|_| origin(&at) == origin(&home)) {
                request = request.header("authorization", format!("Bearer {token}"));
                if self.hub.kind == HubKind::ModelScope {
                    // Its older endpoints know a session cookie only.
                    request = request.header("cookie", format!("m_session_id={token}"));
                }
            }
            let response = request.call().map_err(|e| failed(&at, e))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let target = text(response.headers(), "location")
                .ok_or_else(|| Error::network(format!("{at} redirects to nowhere")))?;
            at = redirected(&at, target)?;
        }
        Err(Error::network(format!("{url} redirects more than {MOST_REDIRECTS} times")).into())
    }

    /// What an answer other than success means, in words that say what to do.
    pub(super) fn refusal(&self, response: &Response<Body>, url: &str) -> Failure {
        let (hub, repo) = (self.hub, &self.repo);
        let headers = response.headers();
        let code = text(headers, "x-error-code").unwrap_or_default();
        let status = response.status();
        let wait =
            text(headers, "retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs);
        let (at, variable) = (&hub.endpoint, hub.kind.token_variable());
        let tokens = hub.kind.tokens_page(at);
        let error = match status.as_u16() {
            401 | 403 if code == "GatedRepo" || status == StatusCode::FORBIDDEN => {
                let then = if hub.token.is_some() {
                    format!("the token of {variable} has no access yet")
                } else {
                    format!("then make a token at {tokens} and set {variable} to it")
                };
                Error::invalid(format!(
                    "{repo} is gated or private ({status}): ask for access at {at}/{repo}; {then}"
                ))
            }
            401 if hub.token.is_some() => Error::invalid(format!(
                "{at} refused {repo} with the token of {variable} ({status}): the token is wrong or has \
                 expired, or there is no such model; make a new one at {tokens}"
            )),
            401 => Error::invalid(format!(
                "{at} has no public model {repo} ({status}): check the name; if it is private or gated, \
                 make a token at {tokens} and set {variable} to it"
            )),
            404 if code == "RevisionNotFound" => Error::not_found(format!(
                "{repo} has no such revision on {at} (404); the default is {}",
                hub.kind.default_revision()
            )),
            404 if code == "EntryNotFound" => {
                Error::not_found(format!("{url} is listed but not there (404); try again later"))
            }
            404 => Error::not_found(format!(
                "{at} has no model {repo}, or not at this revision (404): check the name"
            )),
            408 | 429 | 500..=599 => {
                let error = Error::network(format!("{url} answered {status}"));
                return Failure { error, passing: true, wait };
            }
            _ => Error::network(format!("{url} answered {status}")),
        };
        error.into()
    }

    fn agent_for(&self, uri: &Uri) -> &Agent {
        let proxied = if uri.scheme_str() == Some("https") { &self.https } else { &self.http };
        match proxied {
            Some(agent) if !env::bypasses_proxy(uri.host().unwrap_or_default()) => agent,
            _ => &self.direct,
        }
    }
}

/// The system's own TLS and certificates on Apple and Windows, which keeps C code out of the build
/// there; elsewhere rustls with Mozilla's certificates.
fn system_tls() -> TlsConfigBuilder {
    let builder = TlsConfig::builder();
    #[cfg(any(windows, target_vendor = "apple"))]
    let builder =
        builder.provider(ureq::tls::TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier);
    builder
}

fn agent(hub: &Hub, proxy: Option<Proxy>) -> Result<Agent> {
    let mut tls = system_tls();
    if let Some((name, file)) =
        env::first(&["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    {
        let pem = std::fs::read(&file).context(format!("{name}={file}"))?;
        let certificates: Vec<_> = parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if certificates.is_empty() {
            return Err(Error::invalid(format!("{name}={file} holds no certificate")));
        }
        tls = tls.root_certs(RootCerts::new_with_certs(&certificates));
    }
    Ok(Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(hub.stall))
        .timeout_recv_response(Some(hub.stall))
        .timeout_per_read(Some(hub.stall))
        .user_agent(concat!("puyu/", env!("CARGO_PKG_VERSION")))
        .proxy(proxy)
        .tls_config(tls.build())
        .build()
        .into())
}

fn failed(at: &Uri, error: ureq::Error) -> Failure {
    let host = at.host().unwrap_or_default();
    match error {
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => Error::network(format!(
            "{host}: {e}; behind a proxy that opens connections, set SSL_CERT_FILE to its certificate"
        ))
        .into(),
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Timeout(_)
        | ureq::Error::Io(_) => Failure::passing(format!("{host} cannot be reached ({error})")),
        other => Error::network(format!("{at}: {other}")).into(),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The first and only range of an answer: its first byte and the whole size, of `bytes 5-9/10`.
pub(super) fn content_range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let value = text(response.headers(), header::CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?;
    let (range, total) = value.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

fn parse(url: &str) -> Result<Uri> {
    let uri: Uri = url.parse().map_err(|e| Error::invalid(format!("{url} is no address: {e}")))?;
    if uri.host().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(Error::invalid(format!("{url} is no http or https address")));
    }
    Ok(uri)
}

fn origin(uri: &Uri) -> (String, String, u16) {
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    (scheme, uri.host().unwrap_or_default().to_ascii_lowercase(), port)
}

/// The address that `target`, from a `Location` header of `at`, points to (RFC 3986, section 5).
///
/// # Errors
/// It is no web address, or it would give up encryption.
fn redirected(at: &Uri, target: &str) -> Result<Uri> {
    let scheme = at.scheme_str().unwrap_or_default();
    let authority = at.authority().map(|a| a.as_str()).unwrap_or_default();
    let next = if target.starts_with("http://") || target.starts_with("https://") {
        parse(target)
    } else if target.starts_with("//") {
        parse(&format!("{scheme}:{target}"))
    } else if target.starts_with('/') {
        parse(&format!("{scheme}://{authority}{target}"))
    } else {
        let folder = at.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        parse(&format!("{scheme}://{authority}{folder}/{target}"))
    }?;
    if scheme == "https" && next.scheme_str() != Some("https") {
        let to = next.host().unwrap_or_default();
        return Err(Error::network(format!("{at} redirects to {to} without encryption; refused")));
    }
    Ok(next)
}

/// The query of the next page's address in a `Link` header, `<https://hub/path?query>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let part = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let address = part.split_once('<')?.1.split_once('>')?.0;
    Some(address.split_once('?')?.1.to_string())
}

/// `text` with everything but unreserved characters (RFC 3986, section 2.3) and `/` percent-encoded.
pub(super) fn encode_path(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_and_keep_encryption() {
        let at = parse("https://hub.example/a/b?c").unwrap();
        for (target, expected) in [
            ("https://cdn.example/x?y=1", "https://cdn.example/x?y=1"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/x", "https://hub.example/x"),
            ("x", "https://hub.example/a/x"),
        ] {
            assert_eq!(redirected(&at, target).unwrap().to_string(), expected);
        }
        let error = redirected(&at, "http://cdn.example/x").unwrap_err().to_string();
        assert!(error.contains("without encryption"), "{error}");
        assert!(redirected(&at, "https://").is_err());
        assert_ne!(origin(&at), origin(&parse("https://hub.example:8443/").unwrap()));
        assert_eq!(origin(&at), origin(&parse("https://HUB.example:443/").unwrap()));
    }

    #[test]
    fn a_wrong_certificate_is_final_and_a_lost_link_is_not() {
        let at = parse("https://hub.example/").unwrap();
        let wrong = std::io::Error::new(std::io::ErrorKind::InvalidData, "UnknownIssuer");
        let failure = failed(&at, ureq::Error::Io(wrong));
        assert!(!failure.passing && failure.error.to_string().contains("SSL_CERT_FILE"));
        assert!(failed(&at, ureq::Error::Io(std::io::ErrorKind::ConnectionReset.into())).passing);
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        let link = "<https://h/api?cursor=1>; rel=\"prev\", <https://h/api?recursive=true&cursor=2>; rel=\"next\"";
        assert_eq!(next_page(link).as_deref(), Some("recursive=true&cursor=2"));
        assert_eq!(next_page("<https://h/api?cursor=1>; rel=\"prev\""), None);
    }
}
