//! Siege: a quiet tenant's latency while another's clients hold all that a router has: connections, uploads, answers that
//! they hardly take, requests that are the most work to refuse.
//!
//! The attackers are a process of their own, once with one address and once with a hundred.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::report::Scenario;
use crate::setting::{Router, Setting};
use crate::{Done, Failure, Scale};

/// The first argument of the attackers' process; the address, the number of its addresses and seconds follow.
pub(crate) const WORD: &str = "siege-attackers";
const SILENT: usize = 10_000;
const UPLOADS: usize = 2_000;
const READERS: usize = 200;
const WORKERS: usize = 8;
/// How long each of the two lasts.
const LASTS: Duration = Duration::from_secs(60);
const MEGABYTE: f64 = 1024.0 * 1024.0;
/// Most memory of the router, in MB.
const MAX_MEMORY: f64 = 512.0;

/// What the besieged tenant's owner makes: functions to be compared with, tables for the document, a long answer.
const HEAVY: &str = "SET ROLE mb_owner; SET search_path = public;
    DO $$ BEGIN
        FOR n IN 1..500 LOOP
            EXECUTE format('CREATE FUNCTION over(%s) RETURNS int LANGUAGE sql AS ''SELECT 1''', (
                SELECT string_agg(format('a%s_%s_%s %s', n, i, repeat('x', 40),
                    CASE WHEN i <= 10 AND (n >> i - 1) % 2 = 1 THEN 'text' ELSE 'int' END), ',')
                FROM generate_series(1, 30) i));
        END LOOP;
        FOR n IN 1..300 LOOP
            EXECUTE format('CREATE TABLE wide_%s (%s)', n,
                (SELECT string_agg(format('column_%s text', i), ',') FROM generate_series(1, 200) i));
            EXECUTE format('GRANT SELECT ON wide_%s TO anon', n);
        END LOOP;
    END $$;
    CREATE VIEW long AS SELECT n, repeat('x', 100000) AS text FROM generate_series(1, 300) n;
    GRANT SELECT ON long TO anon; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO anon;";

pub(crate) async fn siege(setting: &mut Setting, _: Scale) -> Done<Vec<Scenario>> {
    let database = setting.fleet().await?.tenant("t0").await?.record.id.database();
    setting.superuser(&database).await?.batch_execute(HEAVY).await?;
    let router = setting.serve("").await?;
    setting.manybox(&["tenant", "reload", "t0"])?;
    let mut scenarios = Vec::new();
    for (name, addresses) in [("siege-one", 1_usize), ("siege-hundred", 100)] {
        let (alone, _) = measured(&router, Duration::from_secs(15)).await?;
        let attackers = tokio::process::Command::new(std::env::current_exe()?)
            .args([WORD, &router.http, &addresses.to_string(), &LASTS.as_secs().to_string()])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        // What it opens at once is part of it.
        let (beside, most) = measured(&router, LASTS).await?;
        let attackers = attackers.wait_with_output().await?;
        if !attackers.status.success() {
            return Err(format!("{name}: the attackers failed").into());
        }
        let at = |seen: &Seen, q| seen.took.value_at_quantile(q) as f64 / 1e3;
        scenarios.push(
            Scenario::new(name, "ms p99", at(&beside, 0.99), at(&alone, 0.99))
                .at_most(5.0)
                .detail("requests", beside.took.len() as f64)
                .detail("failed", beside.failed as f64)
                .detail("newcomers that failed", beside.newcomers_failed as f64)
                .detail("p50 ms", at(&beside, 0.5))
                .detail("p50 alone ms", at(&alone, 0.5))
                .detail("most memory MB", most),
        );
        if most > MAX_MEMORY || beside.failed + beside.newcomers_failed > 0 {
            eprintln!("  {name}: {most:.0} MB, {} + {} failed", beside.failed, beside.newcomers_failed);
        }
        sleep(Duration::from_secs(5)).await;
    }
    Ok(scenarios)
}

struct Seen {
    took: Histogram<u64>,
    failed: u64,
    newcomers_failed: u64,
}

/// The quiet tenant's clients: one that keeps its connection and one that opens a new one each time. And the most memory
/// that the router had meanwhile, in MB.
async fn measured(router: &Router, lasts: Duration) -> Done<(Seen, f64)> {
    let stop = Arc::new(AtomicBool::new(false));
    let (address, own) = (router.http.clone(), Arc::clone(&stop));
    // A thread and a runtime of its own, so that only the router and the machine make it wait.
    let clients = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(quiet(address, own))
    });
    let (begun, mut most) = (Instant::now(), 0.0_f64);
    while begun.elapsed() < lasts {
        most = most.max(router.resident()? / MEGABYTE);
        sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let seen = clients.join().map_err(|_| "the quiet clients panicked")??;
    Ok((seen, most))
}

async fn quiet(address: String, stop: Arc<AtomicBool>) -> Done<Seen> {
    let mut seen = Seen { took: Histogram::new(3)?, failed: 0, newcomers_failed: 0 };
    let mut kept = None;
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        if kept.is_none() {
            kept = connect(&address, Ipv4Addr::new(127, 0, 9, 9)).await.ok();
        }
        let is_right = match &mut kept {
            Some(sender) => point(sender, number).await,
            None => false,
        };
        if !is_right {
            seen.failed += 1;
            kept = None;
        }
        seen.took.record(begun.elapsed().as_micros() as u64)?;
        if number.is_multiple_of(10) {
            let begun = Instant::now();
            let newcomer = async {
                Done::Ok(point(&mut connect(&address, Ipv4Addr::new(127, 0, 9, 8)).await?, number).await)
            };
            if !timeout(Duration::from_secs(5), newcomer).await.is_ok_and(|done| done.unwrap_or(false)) {
                seen.newcomers_failed += 1;
            }
            seen.took.record(begun.elapsed().as_micros() as u64)?;
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(seen)
}

type Sender = hyper::client::conn::http1::SendRequest<Full<bytes::Bytes>>;

async fn connect(address: &str, from: Ipv4Addr) -> Done<Sender> {
    let (sender, connection) = handshake(TokioIo::new(socket(address, from).await?)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn point(sender: &mut Sender, number: u64) -> bool {
    let ask = async {
        let request =
            hyper::Request::get(format!("/t1/items?id=eq.{}", 1 + number % 1000)).header("host", "127.0.0.1");
        sender.ready().await?;
        let answer = sender.send_request(request.body(Full::default())?).await?;
        let is_right = answer.status() == 200;
        answer.into_body().collect().await?;
        Done::Ok(is_right)
    };
    timeout(Duration::from_secs(5), ask).await.is_ok_and(|answer| answer.unwrap_or(false))
}

async fn socket(address: &str, from: Ipv4Addr) -> Done<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let socket = socket.connect(address.parse()?).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// The attackers. Whoever is cut off comes again after a while.
pub(crate) async fn attack(address: &str, addresses: usize, lasts: Duration) -> Done {
    let from = |number: usize| Ipv4Addr::new(127, 0, 1, u8::try_from(1 + number % addresses).unwrap_or(1));
    let mut all = Vec::new();
    for number in 0..SILENT {
        all.push(again(address, from(number), Duration::from_secs(10), silent));
    }
    for number in 0..UPLOADS {
        all.push(again(address, from(number), Duration::from_secs(1), upload));
    }
    for number in 0..READERS {
        all.push(again(address, from(number), Duration::from_secs(1), reader));
    }
    for number in 0..WORKERS {
        let turn = move |socket| work(socket, number);
        all.push(again(address, from(number), Duration::from_millis(1), turn));
    }
    sleep(lasts).await;
    all.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

fn again<F>(
    address: &str,
    from: Ipv4Addr,
    pause: Duration,
    turn: impl Fn(TcpStream) -> F + Send + 'static,
) -> tokio::task::JoinHandle<()>
where
    F: Future<Output = Result<(), Failure>> + Send,
{
    let address = address.to_owned();
    tokio::spawn(async move {
        loop {
            if let Ok(socket) = socket(&address, from).await {
                let _ = turn(socket).await;
            }
            sleep(pause).await;
        }
    })
}

async fn silent(mut socket: TcpStream) -> Done {
    socket.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// As fast as it must be, for as long as it may be.
async fn upload(mut socket: TcpStream) -> Done {
    let head = "POST /t0/orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
                Content-Length: 9000000\r\n\r\n";
    socket.write_all(head.as_bytes()).await?;
    loop {
        socket.write_all(&[b' '; 1100]).await?;
        sleep(Duration::from_secs(1)).await;
    }
}

async fn reader(mut socket: TcpStream) -> Done {
    socket.write_all(b"GET /t0/long HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await?;
    let mut drop = [0; 200];
    while socket.read(&mut drop).await? > 0 {
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn work(mut socket: TcpStream, number: usize) -> Done {
    let names: Vec<_> = (0..30).map(|n| format!("a{number}_{n}_{}=1", "y".repeat(60))).collect();
    let path = if number.is_multiple_of(2) {
        format!("/t0/rpc/over?{}", names.join("&"))
    } else {
        "/t0/".to_owned()
    };
    socket
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut taken = vec![0; 64 * 1024];
    while socket.read(&mut taken).await? > 0 {}
    Ok(())
}
