//! A proxy between manybox and PostgreSQL that knows where a message ends, and breaks the wire at a chosen one.
//!
//! It stands before this run's server; what has its [`Proxy::admin_url`] as a server's URL connects through it. Without
//! a fault it only counts: [`Proxy::passed`] tells what one request sent and got, so that a test can then break the wire
//! at each of these messages in turn. It reads no TLS, and so refuses it as a server without TLS does.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// Longest message; a longer one is a sign that the proxy lost its place.
const LONGEST: usize = 64 * 1024 * 1024;

/// The codes of the packets that a client begins with, where a start-up packet has its version.
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// Who sent a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What happens to a message, or before it.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is lost with the connection. The client has read all before it, then finds the end of the stream.
    Cut,
    /// It waits until [`Proxy::resume`], and all from that side behind it. The other side is heard.
    Stall,
    /// These bytes go before it.
    Insert(Vec<u8>),
}

/// A NoticeResponse, which a server may send at any time.
pub(crate) fn notice(text: &str) -> Vec<u8> {
    message(b'N', &["SNOTICE", "VNOTICE", "C00000", &format!("M{text}"), ""])
}

/// A ParameterStatus, which a server may send at any time.
pub(crate) fn parameter_status(name: &str, value: &str) -> Vec<u8> {
    message(b'S', &[name, value])
}

fn message(tag: u8, strings: &[&str]) -> Vec<u8> {
    let body = strings.iter().flat_map(|text| text.bytes().chain([0])).collect::<Vec<u8>>();
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[tag], length.to_be_bytes().as_slice(), &body].concat()
}

/// The proxy; all its connections end when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
    listens: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let server = super::server().await;
        let server = ("127.0.0.1", server.tcp_port().expect("the test server listens on TCP"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let plan = Arc::<Mutex<Plan>>::default();
        let shared = Arc::clone(&plan);
        let listens = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let plan = Arc::clone(&shared);
                connections.spawn(async move {
                    let server = TcpStream::connect(server).await?;
                    serve(client, server, &plan).await
                });
            }
        });
        Self { address, plan, listens }
    }

    /// The admin's URL by this way.
    pub(crate) async fn admin_url(&self) -> String {
        super::tcp_url(super::server().await, self.address.port())
    }

    /// Counts and breaks the sessions of this database only, from now on: the catalog's go on undisturbed.
    pub(crate) fn watch(&self, database: &str) {
        *self.plan() = Plan { database: Some(database.to_owned()), ..Plan::default() };
    }

    /// Counts from zero, and strikes once: `after` so many messages of this side have passed, at the next.
    pub(crate) fn arm(&self, side: Side, after: usize, fault: Fault) {
        let mut plan = self.plan();
        let database = plan.database.take();
        *plan = Plan { database, armed: Some(Armed { side, after, fault }), ..Plan::default() };
    }

    /// Whether the fault has happened.
    pub(crate) fn has_struck(&self) -> bool {
        self.plan().struck
    }

    /// The types of the messages that have passed from this side, as the protocol's letters; `^` is a start-up packet.
    pub(crate) fn passed(&self, side: Side) -> String {
        self.plan().passed.iter().filter(|(from, _)| *from == side).map(|(_, tag)| char::from(*tag)).collect()
    }

    /// Lets go what [`Fault::Stall`] holds.
    pub(crate) fn resume(&self) {
        if let Some(stalled) = self.plan().stalled.take() {
            let _ = stalled.send(());
        }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("no test panics inside")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listens.abort();
    }
}

/// What is to be done, and what has been seen since it was said.
#[derive(Default)]
struct Plan {
    database: Option<String>,
    armed: Option<Armed>,
    struck: bool,
    stalled: Option<oneshot::Sender<()>>,
    passed: Vec<(Side, u8)>,
}

struct Armed {
    side: Side,
    after: usize,
    fault: Fault,
}

/// What is done before a message is passed on.
enum Step {
    Pass,
    Cut,
    Wait(oneshot::Receiver<()>),
    Insert(Vec<u8>),
}

impl Plan {
    fn step(&mut self, side: Side) -> Step {
        let Some(armed) = self.armed.as_mut().filter(|armed| armed.side == side) else { return Step::Pass };
        if armed.after > 0 {
            armed.after -= 1;
            return Step::Pass;
        }
        self.struck = true;
        match self.armed.take().map(|armed| armed.fault) {
            Some(Fault::Cut) => Step::Cut,
            Some(Fault::Stall) => {
                let (resume, wait) = oneshot::channel();
                self.stalled = Some(resume);
                Step::Wait(wait)
            }
            Some(Fault::Insert(bytes)) => Step::Insert(bytes),
            None => Step::Pass,
        }
    }
}

async fn serve(mut client: TcpStream, mut server: TcpStream, plan: &Mutex<Plan>) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let start = greet(&mut client).await?;
    let wire = Wire { plan, database: database(&start) };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        wire.pass(Side::Client, b'^', &start, &mut to_server).await?;
        wire.pump(Side::Client, &mut from_client, &mut to_server).await
    };
    let ended = tokio::try_join!(up, wire.pump(Side::Server, &mut from_server, &mut to_client));
    drop(server);
    // Closed with something unread, the socket would be reset, and what the client has not read yet be lost.
    client.shutdown().await?;
    tokio::io::copy(&mut client, &mut tokio::io::sink()).await?;
    ended.map(drop)
}

/// The packet that a client begins with, once it has heard that there is no encryption.
async fn greet(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    loop {
        let mut packet = vec![0; 4];
        client.read_exact(&mut packet).await?;
        rest(&mut packet, 0, &mut client.split().0).await?;
        match code(&packet) {
            Some(SSL | GSS) => client.write_all(b"N").await?,
            _ => return Ok(packet),
        }
    }
}

fn code(packet: &[u8]) -> Option<u32> {
    packet.get(4..8)?.try_into().ok().map(u32::from_be_bytes)
}

/// The database of a start-up packet; none of a request to cancel.
fn database(packet: &[u8]) -> Option<String> {
    if code(packet) == Some(CANCEL) {
        return None;
    }
    let mut strings = packet.get(8..)?.split(|byte| *byte == 0);
    strings.find(|name| *name == b"database")?;
    strings.next().map(|value| String::from_utf8_lossy(value).into_owned())
}

/// Reads the rest of a message whose length stands at this place.
async fn rest(message: &mut Vec<u8>, at: usize, from: &mut ReadHalf<'_>) -> io::Result<()> {
    let length = message.get(at..at + 4).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
    let length = length.map_or(0, |length| length as usize);
    if !(4..LONGEST).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let begun = message.len();
    message.resize(at + length, 0);
    from.read_exact(&mut message[begun..]).await.map(drop)
}

/// One connection.
struct Wire<'a> {
    plan: &'a Mutex<Plan>,
    database: Option<String>,
}

impl Wire<'_> {
    /// Passes messages on until the end of the stream, which it passes on, too.
    async fn pump(&self, side: Side, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> io::Result<()> {
        loop {
            let mut message = vec![0; 5];
            if from.read(&mut message[..1]).await? == 0 {
                return to.shutdown().await;
            }
            from.read_exact(&mut message[1..]).await?;
            rest(&mut message, 1, from).await?;
            self.pass(side, message[0], &message, to).await?;
        }
    }

    async fn pass(&self, side: Side, tag: u8, message: &[u8], to: &mut WriteHalf<'_>) -> io::Result<()> {
        match self.plan().map_or(Step::Pass, |mut plan| plan.step(side)) {
            Step::Pass => {}
            Step::Cut => return Err(io::ErrorKind::ConnectionAborted.into()),
            Step::Wait(resumed) => {
                let _ = resumed.await;
            }
            Step::Insert(bytes) => to.write_all(&bytes).await?,
        }
        // Before it is written: whoever has got it finds it among those that have passed.
        if let Some(mut plan) = self.plan() {
            plan.passed.push((side, tag));
        }
        to.write_all(message).await
    }

    /// The plan, where it is for this connection.
    fn plan(&self) -> Option<MutexGuard<'_, Plan>> {
        let database = self.database.as_ref()?;
        let plan = self.plan.lock().expect("no test panics inside");
        plan.database.as_ref().is_none_or(|watched| watched == database).then_some(plan)
    }
}

mod tests {
    use std::future::poll_fn;

    use manybox::pg::{self, Connection, Endpoint};
    use tokio_postgres::{AsyncMessage, NoTls};

    use super::super::eventually;
    use super::*;

    async fn connect(proxy: &Proxy) -> Connection {
        let (endpoint, login) = Endpoint::parse("proxied", &proxy.admin_url().await, None).unwrap();
        pg::connect(&endpoint, &login.unwrap(), "postgres").await.unwrap()
    }

    async fn ask(client: &tokio_postgres::Client) -> Result<i32, tokio_postgres::Error> {
        client.query_typed("SELECT 42", &[]).await.map(|rows| rows[0].get(0))
    }

    /// What a question consists of.
    async fn whole(proxy: &Proxy, client: &tokio_postgres::Client, side: Side) -> String {
        proxy.watch("postgres");
        ask(client).await.unwrap();
        proxy.passed(side)
    }

    #[tokio::test]
    async fn a_session_is_cut_before_any_message() {
        for (side, expected) in [(Side::Client, "PBDES"), (Side::Server, "12tTDCZ")] {
            let proxy = Proxy::start().await;
            let first = connect(&proxy).await;
            let whole = whole(&proxy, &first, side).await;
            assert_eq!(whole, expected);
            for after in 0..whole.len() {
                let client = connect(&proxy).await;
                proxy.arm(side, after, Fault::Cut);
                let error = ask(&client).await.unwrap_err();
                assert!(error.is_closed(), "{side:?} {after}: {error}");
                assert!(proxy.has_struck());
                assert_eq!(proxy.passed(side), whole[..after]);
            }
            assert_eq!(ask(&first).await.unwrap(), 42, "a fault strikes once");
        }
    }

    #[tokio::test]
    async fn a_login_is_cut_as_well() {
        let proxy = Proxy::start().await;
        let config: tokio_postgres::Config = proxy.admin_url().await.parse().unwrap();
        proxy.arm(Side::Client, 1, Fault::Cut);
        config.connect(NoTls).await.err().expect("no answer to the challenge");
        assert_eq!(proxy.passed(Side::Client), "^");
    }

    #[tokio::test]
    async fn a_stalled_answer_comes_when_it_is_let_go() {
        let proxy = Proxy::start().await;
        let client = connect(&proxy).await;
        proxy.arm(Side::Server, 2, Fault::Stall);
        let asked = tokio::spawn(async move { ask(&client).await });
        eventually("the answer is held", async || proxy.has_struck()).await;
        assert!(!asked.is_finished());
        proxy.resume();
        assert_eq!(asked.await.unwrap().unwrap(), 42);
    }

    #[tokio::test]
    async fn a_notice_and_a_parameter_are_put_before_any_message() {
        let proxy = Proxy::start().await;
        let config: tokio_postgres::Config = proxy.admin_url().await.parse().unwrap();
        let (client, mut connection) = config.connect(NoTls).await.unwrap();
        let driver = tokio::spawn(async move {
            let mut notices = Vec::new();
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message {
                    notices.push(notice.message().to_owned());
                }
            }
            (notices, connection.parameter("proxied").map(str::to_owned))
        });
        let messages = whole(&proxy, &client, Side::Server).await.len();
        let mut expected = Vec::new();
        for after in 0..messages {
            let number = after.to_string();
            let both = [notice(&number), parameter_status("proxied", &number)].concat();
            proxy.arm(Side::Server, after, Fault::Insert(both));
            assert_eq!(ask(&client).await.unwrap(), 42, "{after}");
            expected.push(number);
        }
        drop(client);
        let last = expected.last().cloned();
        assert_eq!(driver.await.unwrap(), (expected, last));
    }

    #[tokio::test]
    async fn other_databases_go_undisturbed() {
        let proxy = Proxy::start().await;
        let client = connect(&proxy).await;
        proxy.watch("another");
        proxy.arm(Side::Server, 0, Fault::Cut);
        assert_eq!(ask(&client).await.unwrap(), 42);
        assert_eq!((proxy.has_struck(), proxy.passed(Side::Server).as_str()), (false, ""));
    }
}
