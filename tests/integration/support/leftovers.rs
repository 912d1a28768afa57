//! Leftovers: the databases of fleets whose test has ended are dropped, for together they would fill a small disk.

use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use manybox::pg::Ident;
use tokio_postgres::{Config, NoTls};

static SWEEPER: OnceLock<Sender<Leftover>> = OnceLock::new();

/// A fleet that nobody uses any more.
pub(super) struct Leftover {
    /// The superuser of its server.
    pub(super) superuser: String,
    /// The database of its catalog.
    pub(super) catalog: String,
}

impl Leftover {
    /// Leaves it to a thread of its own: the test's runtime ends with the test.
    pub(super) fn leave(self) {
        let sweeper = SWEEPER.get_or_init(|| {
            let (sender, receiver) = mpsc::channel();
            thread::spawn(move || sweep(&receiver));
            sender
        });
        // Without a sweeper they stay until the run ends.
        let _ = sweeper.send(self);
    }

    async fn drop_databases(&self) -> Result<(), tokio_postgres::Error> {
        let mut config: Config = self.superuser.parse()?;
        let server = connect(&config).await?;
        let catalog = connect(config.dbname(&self.catalog)).await?;
        let sql = "SELECT coalesce(database, 'mb_' || id) FROM catalog.tenant
                   UNION SELECT database FROM catalog.template";
        let all = catalog.query(sql, &[]).await?;
        let all = all.iter().map(|row| row.get(0));
        for database in all.chain([self.catalog.clone(), format!("{}_router", self.catalog)]) {
            let database = Ident::new(database);
            // A template is none that can be dropped. Any of them may have gone with its test.
            let _ = server.batch_execute(&format!("ALTER DATABASE {database} IS_TEMPLATE false")).await;
            let _ = server.batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)")).await;
        }
        Ok(())
    }
}

fn sweep(leftovers: &Receiver<Leftover>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for leftover in leftovers {
        // A catalog that its test dropped says nothing of the rest.
        let _ = runtime.block_on(leftover.drop_databases());
    }
}

async fn connect(config: &Config) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
