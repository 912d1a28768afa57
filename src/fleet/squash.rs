//! Squash: one file that makes what an edition's files up to a version make, proved by building both.

use tokio::io::AsyncReadExt as _;

use super::dump::{self, Content, Snapshot, facts_of, finished};
use super::roles::OWNER;
use super::scratch::Scratch;
use super::{Fleet, FleetError, FleetServer};
use crate::migrate::{self, Edition, Facts, SquashText};

/// Longest dump that becomes a file. Whoever has more in its templates copies them quicker than it runs statements.
const MAX_DUMP: u64 = 64 * 1024 * 1024;
/// Most differences that are told.
const MAX_DIFFERENCES: usize = 20;

/// A squashed file that was proved, and not written yet.
#[derive(Debug)]
pub struct SquashedFile {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub text: String,
    /// The files that it takes the place of, in order of version.
    pub replaces: Vec<String>,
    /// How many rows it fills in.
    pub rows: i64,
    /// In how many tables.
    pub tables: usize,
    /// How many statements of it run in each tenant.
    pub per_tenant: usize,
}

/// What a build left.
struct Built {
    facts: Facts,
    content: Content,
}

impl Fleet {
    /// Makes one file of an edition's files up to a version: their schema and rows as PostgreSQL dumps them, and what they do
    /// in each tenant. A database that the file made is compared with one that the files made: in schema, rows, sequences
    /// and history. Both are scratch databases on `server`.
    ///
    /// # Errors
    /// When there is no such version, the files contradict the fleet or fail, PostgreSQL's client programs are missing, or
    /// what the file makes is something else; the difference is told then.
    pub async fn squash(
        &self,
        server: &str,
        edition: &Edition,
        version: i64,
        name: &str,
    ) -> Result<SquashedFile, FleetError> {
        self.refuse_contradiction(edition).await?;
        let (server, files) = (self.servers.get(server)?, edition.to_squash(version, name)?);
        let (of_files, dump) = self
            .in_build(server, &files, async |scratch| {
                let (built, dump) = self.read_build(server, scratch, true).await?;
                Ok((built, dump))
            })
            .await?;
        if of_files.content.large_objects > 0 {
            return Err(FleetError::Settings(format!(
                "the files of edition `{}` make {} large object(s), which no migration can hold: squash up to a version without \
                 them",
                edition.name, of_files.content.large_objects
            )));
        }
        let SquashText { file_name, text, edition: squashed } =
            files.squash(name, &dump, OWNER, &self.settings.roles())?;
        let of_squashed = self
            .in_build(server, &squashed, async |scratch| Ok(self.read_build(server, scratch, false).await?.0))
            .await?;
        let mut differences = of_squashed.facts.difference(&of_files.facts).lines();
        differences.extend(of_squashed.content.differences(&of_files.content));
        if !differences.is_empty() {
            return Err(FleetError::Settings(format!(
                "what one file makes would differ from what the files up to version {version} make, so none was written:\n  {}",
                differences.into_iter().take(MAX_DIFFERENCES).collect::<Vec<_>>().join("\n  ")
            )));
        }
        let (rows, tables) = of_files.content.size();
        let statements = squashed.files.iter().flat_map(|file| &file.statements);
        Ok(SquashedFile {
            name: file_name,
            text,
            replaces: squashed.files.iter().map(migrate::File::file_name).collect(),
            rows,
            tables,
            per_tenant: statements.filter(|statement| statement.per_tenant).count(),
        })
    }

    /// What a build left in its tables.
    pub(super) async fn content(
        &self,
        server: &FleetServer,
        scratch: &Scratch,
    ) -> Result<Content, FleetError> {
        let name = &scratch.name;
        let reader = scratch.keep_login(name, self.make_reader(server.endpoint.name(), name).await?);
        let snapshot = Snapshot::take(&server.endpoint, name, &reader).await?;
        let content = Content::read(&snapshot).await?;
        snapshot.close().await;
        Ok(content)
    }

    /// Reads what a build left, and dumps it if that is asked for.
    async fn read_build(
        &self,
        server: &FleetServer,
        scratch: &Scratch,
        dumped: bool,
    ) -> Result<(Built, String), FleetError> {
        let name = &scratch.name;
        let facts = facts_of(server, name).await?;
        let reader = scratch.keep_login(name, self.make_reader(server.endpoint.name(), name).await?);
        let snapshot = Snapshot::take(&server.endpoint, name, &reader).await?;
        let content = Content::read(&snapshot).await?;
        let mut text = String::new();
        if dumped {
            let more =
                ["--format=plain", "--no-owner", "--no-blobs", "--column-inserts", "--rows-per-insert=100"];
            let mut dumping = dump::dump(&server.endpoint, (name, &reader), &snapshot.name, &more).await?;
            let unread =
                |error: std::io::Error| FleetError::File(format!("reading pg_dump's output: {error}"));
            let output = dumping.stdout.take();
            let reading = async {
                let mut text = String::new();
                if let Some(output) = output {
                    output.take(MAX_DUMP + 1).read_to_string(&mut text).await.map_err(unread)?;
                }
                Ok::<_, FleetError>(text)
            };
            let (read, ended) = tokio::join!(reading, finished("pg_dump", &mut dumping));
            text = read?;
            if text.len() as u64 > MAX_DUMP {
                return Err(FleetError::Settings(format!(
                    "what the files make is longer than {MAX_DUMP} bytes as SQL: squash up to a version with fewer rows"
                )));
            }
            let (status, said) = ended?;
            if !status.success() {
                return Err(FleetError::File(format!("pg_dump could not read what the files made: {said}")));
            }
        }
        snapshot.close().await;
        Ok((Built { facts, content }, text))
    }
}
