//! The page over a real socket, with real certificates.

use std::net::SocketAddr;
use std::sync::Mutex;

use metrics_exporter_prometheus::PrometheusBuilder;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::*;
use crate::audit::export::verify;
use crate::dicom::tls::{Known, OwnIdentity, client_config, load_authorities};
use crate::store::fixture::{Fixture, HOSTILE, START_MS, STUDY_UID};

/// A page that runs, and the site behind it.
struct Running {
    fixture: Fixture,
    address: SocketAddr,
    engine_fault: Arc<Mutex<Option<String>>>,
    changed: Arc<Notify>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), AdminError>>,
}

impl Running {
    async fn start(fixture: Fixture) -> Self {
        let live = Arc::new(Live::load(&fixture.site).expect("loaded"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let engine_fault = Arc::new(Mutex::new(None));
        let (changed, (stop, stopped)) = (Arc::new(Notify::new()), watch::channel(false));
        let state = AdminState {
            listening: Listening {
                dicom: "127.0.0.1:2762".into(),
                plaintext: None,
                all: [("dicom", "127.0.0.1:2762".into())].into(),
            },
            site: fixture.site.clone(),
            ledger: fixture.ledger.clone(),
            objects: fixture.objects.clone(),
            identity: fixture.identity.clone(),
            clock: fixture.clock.clone(),
            started_ms: START_MS,
            prometheus: PrometheusBuilder::new().build_recorder().handle(),
            models: Arc::new(|| {
                vec![ModelLine {
                    name: "phantom".into(),
                    title: "Phantom disk detector 1.2.0".into(),
                    digest: "ab".repeat(32),
                    not_for_clinical_use: true,
                    fault: None,
                }]
            }),
            engine_fault: {
                let fault = engine_fault.clone();
                Arc::new(move || fault.lock().expect("lock").clone())
            },
            changed: changed.clone(),
            places: Arc::new(Places::new(8)),
            live: watch::channel(live).1,
            reload_fault: Fault::default(),
            image_warning: Some("Lightbox 1 (test flavour)".into()),
        };
        let task = tokio::spawn(serve(listener, state, stopped));
        Running { fixture, address, engine_fault, changed, stop, task }
    }

    /// Sends a request with a person's certificate, or none; yields all that comes back, or the
    /// error that ended the connection.
    async fn ask(&self, who: Option<&str>, request: &str) -> std::io::Result<String> {
        let folder = self.fixture.folder.path();
        let identity = who.map(|name| {
            let path = |kind| folder.join(format!("{name}.{kind}"));
            OwnIdentity::load(&path("crt"), &path("key")).expect("identity")
        });
        let roots = load_authorities([folder.join("ca.crt").as_path()]).expect("authorities");
        let config =
            client_config(Known::Name("localhost".into()), roots, identity.as_ref()).expect("client");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TcpStream::connect(self.address).await?;
        let mut stream = TlsConnector::from(config).connect(name, stream).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8(answer).expect("UTF-8"))
    }

    async fn get(&self, who: &str, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        self.ask(Some(who), &request).await.expect("answered")
    }

    async fn post(&self, who: &str, path: &str, headers: &str, body: &str) -> String {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.ask(Some(who), &request).await.expect("answered")
    }

    /// The token in a form of a page.
    async fn token(&self, who: &str) -> String {
        let page = self.get(who, "/queue").await;
        let at = page.split_once("name=\"token\" value=\"").expect("a form").1;
        at.split_once('"').expect("a value").0.to_owned()
    }

    /// How many audit records of operators say this.
    fn audited(&self, operator: &str, what: &str) -> i64 {
        let (operator, what) = (operator.to_owned(), format!("%{what}%"));
        self.fixture
            .ledger
            .read_blocking(|reader| {
                Ok(reader.query_row(
                    "SELECT count(*) FROM audit WHERE event = 'operator-action' AND subject = ?1 AND detail LIKE ?2",
                    [operator, what],
                    |row| row.get(0),
                )?)
            })
            .expect("read")
    }

    fn delivery_state(&self) -> String {
        self.fixture
            .ledger
            .read_blocking(|reader| {
                Ok(reader.query_row("SELECT state FROM deliveries WHERE id = 2", [], |row| row.get(0))?)
            })
            .expect("read")
    }
}

fn status(answer: &str) -> &str {
    answer.get(9..12).expect("a status line")
}

const OURS: &str = "Origin: https://localhost\r\nSec-Fetch-Site: same-origin\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_certificate_of_the_site_file_opens_the_page() {
    let page = Running::start(Fixture::complete()).await;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(page.ask(None, request).await.is_err(), "no certificate");
    assert!(page.ask(Some("stranger"), request).await.is_err(), "of the same authority, but not named");
    let answer = page.ask(Some("vera"), request).await.expect("answered");
    assert_eq!(status(&answer), "200");
    for header in ["content-security-policy: default-src 'none'", "cache-control: no-store", "nosniff"] {
        assert!(answer.contains(header), "{header}");
    }
    let peers = page.get("vera", "/peers").await;
    assert!(peers.contains("showed no client certificate") && peers.contains("[[operator]]"));
    page.stop.send(true).expect("stopped");
    page.task.await.expect("joined").expect("ended well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_sees_and_an_operator_acts() {
    let page = Running::start(Fixture::complete()).await;
    let token = page.token("olaf").await;
    assert!(!page.get("vera", "/queue").await.contains("<button"), "a viewer has no button");
    let refused = page.post("vera", "/queue/2/replay", OURS, &format!("token={token}")).await;
    assert_eq!(status(&refused), "403");
    assert_eq!(page.audited("vera", "your role is viewer"), 1);
    assert_eq!(page.delivery_state(), "dead");

    let done = page.post("olaf", "/queue/2/replay", OURS, &format!("token={token}")).await;
    assert_eq!(status(&done), "303");
    assert_eq!((page.delivery_state().as_str(), page.audited("olaf", "replay-delivery")), ("queued", 1));
    page.changed.notified().await;
    let again = page.post("olaf", "/queue/2/replay", OURS, &format!("token={token}")).await;
    assert_eq!(status(&again), "409", "it is no dead letter any more");
    assert_eq!(status(&page.post("olaf", "/queue/99/replay", OURS, &format!("token={token}")).await), "404");

    page.fixture.sql("UPDATE deliveries SET state = 'dead'");
    let body = format!("token={token}&destination=ris");
    assert_eq!(status(&page.post("olaf", "/queue/replay-all", OURS, &body).await), "303");
    assert_eq!(page.delivery_state(), "queued");
    let chain = page.fixture.ledger.read_blocking(|r| Ok(verify(r, page.fixture.identity.public_key())));
    assert!(chain.expect("read").is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_job_is_run_again_from_the_study() {
    let page = Running::start(Fixture::routed()).await;
    page.fixture.sql(
        "UPDATE jobs SET state = 'failed', error = 'the engine stopped'; UPDATE studies SET state = 'done'",
    );
    let path = format!("/studies/{}", page.fixture.key());
    let shown = page.get("olaf", &path).await;
    assert!(shown.contains("the engine stopped") && shown.contains("action=\"/jobs/1/replay\""));
    let token = shown.split_once("name=\"token\" value=\"").expect("a form").1[..64].to_owned();
    let done = page.post("olaf", "/jobs/1/replay", OURS, &format!("token={token}")).await;
    assert!(done.to_lowercase().contains(&format!("location: {path}")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_from_another_site_or_without_a_token_changes_nothing() {
    let page = Running::start(Fixture::complete()).await;
    let token = page.token("olaf").await;
    let body = format!("token={token}");
    for (headers, body) in [
        ("Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n", body.as_str()),
        ("Origin: null\r\n", &body),
        ("", &body),
        (OURS, "token="),
        (OURS, ""),
        (OURS, "token=0000000000000000000000000000000000000000000000000000000000000000"),
    ] {
        assert_eq!(
            status(&page.post("olaf", "/queue/2/replay", headers, body).await),
            "403",
            "{headers}{body}"
        );
    }
    assert_eq!((page.delivery_state().as_str(), page.audited("olaf", "refused")), ("dead", 6));
    let large = page.post("olaf", "/queue/2/replay", OURS, &format!("token={}", "a".repeat(5000))).await;
    assert_eq!(status(&large), "413");
    assert_eq!(status(&page.get("olaf", "/queue/2/replay").await), "405");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_is_shown_by_its_key_and_escaped_and_the_view_is_audited() {
    let page = Running::start(Fixture::complete()).await;
    let shown = page.get("vera", &format!("/studies/{}", page.fixture.key())).await;
    assert!(!shown.contains(HOSTILE) && shown.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(shown.contains("AE: &lt;b&gt;unknown patient&lt;/b&gt; DOE"), "the peer's own words");
    for told in ["thin chest", "phantoms", "suppressed", "not for clinical use", "body part", "Thorax 2"] {
        assert!(shown.contains(told), "{told}");
    }
    assert!(!shown.contains(STUDY_UID) && !shown.contains("JANE"));
    assert_eq!(page.audited("vera", "viewed"), 1);
    assert_eq!(status(&page.get("vera", "/studies/nobody").await), "404");
    let list = page.get("vera", "/studies?problems=1").await;
    assert!(list.contains(&page.fixture.key()) && list.contains("dead letter"));
    assert!(!page.get("vera", "/studies?state=unrouted").await.contains(&page.fixture.key()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_that_cannot_go_when_its_days_are_over_is_shown() {
    let page = Running::start(Fixture::complete()).await;
    assert!(!page.get("vera", "/").await.contains("Kept longer"));
    let days = i64::try_from(page.fixture.site.file.store.keep_days).expect("small");
    page.fixture.clock.advance(std::time::Duration::from_secs((days as u64 + 1) * 86_400));
    let health = page.get("vera", "/").await;
    assert!(health.contains("Kept longer") && health.contains("1 studies"), "{health}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monitors_hear_whether_it_lives_is_ready_and_how_much_waits() {
    let page = Running::start(Fixture::complete()).await;
    assert!(page.get("vera", "/healthz").await.ends_with("alive\n"));
    assert_eq!(status(&page.get("vera", "/readyz").await), "200");
    let metrics = page.get("vera", "/metrics").await;
    assert!(metrics.contains("lightbox_deliveries{destination=\"ris\",state=\"dead\"} 1"));
    assert!(metrics.contains("lightbox_ready 1") && !metrics.contains(STUDY_UID));
    *page.engine_fault.lock().expect("lock") = Some("ONNX Runtime is not there".into());
    let answer = page.get("vera", "/readyz").await;
    assert_eq!(status(&answer), "503");
    assert!(answer.contains("no model can run: ONNX Runtime is not there"));
    assert!(page.get("vera", "/").await.contains("Not ready"));
}
