//! Events: what goes on, sent to pages as it happens (server-sent events).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::Stream;
use futures_util::stream;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::super::{Control, Problem};
use super::viewer::Viewer;
use super::{fleet, rollout, verify};
use crate::catalog::OperatorRole;

/// How long one is told. The browser asks again, and is looked at again: it may have been signed out since.
const LONGEST: Duration = Duration::from_secs(300);
/// Between two looks at a rollout, at the fleet, and at a verification.
const ROLLOUT: Duration = Duration::from_millis(400);
const FLEET: Duration = Duration::from_secs(5);
const VERIFICATION: Duration = Duration::from_secs(1);

/// `GET /events`: the fleet.
pub(super) async fn of_fleet(State(control): State<Arc<Control>>, viewer: Viewer) -> Response {
    let place = viewer.caller.needs_all(OperatorRole::Viewer).and_then(|()| control.streams.place());
    let place = match place {
        Ok(place) => place,
        Err(problem) => return problem.into_response(),
    };
    let told = Told { control, viewer, last: Vec::new(), begun: Instant::now(), _place: place };
    answer(stream::unfold(told, |mut told| async move {
        loop {
            tokio::time::sleep(FLEET).await;
            if told.begun.elapsed() > LONGEST {
                return None;
            }
            // The page stays as it is while the catalog is away.
            let Ok(html) = fleet::part(&told.control, &told.viewer).await else { continue };
            let parts = told.fresh(vec![("live".to_owned(), html)]);
            if !parts.is_empty() {
                return Some((stream::iter(parts), told));
            }
        }
    }))
}

/// `GET /rollouts/{id}/events`
pub(super) async fn of_rollout(
    State(control): State<Arc<Control>>,
    viewer: Viewer,
    Path(id): Path<String>,
) -> Response {
    let found = async {
        viewer.caller.needs_all(OperatorRole::Viewer)?;
        let row = rollout::find(&control.fleet, &id).await?;
        Ok::<_, Problem>((row.id, row.state, control.streams.place()?))
    };
    let (id, state, place) = match found.await {
        Ok(found) => found,
        Err(problem) => return problem.into_response(),
    };
    let told = Told { control, viewer, last: Vec::new(), begun: Instant::now(), _place: place };
    answer(stream::unfold(Some(told), move |told| async move {
        let mut told = told?;
        loop {
            if told.begun.elapsed() > LONGEST {
                return None;
            }
            let row = told.control.fleet.catalog.rollout(id).await;
            let look = match row {
                Ok(Some(row)) => rollout::Look::take(&told.control, row).await.ok(),
                _ => None,
            };
            let Some(look) = look else {
                tokio::time::sleep(ROLLOUT).await;
                continue;
            };
            let mut events = told.fresh(rollout::parts(&told.viewer, &look));
            let cells: serde_json::Map<_, _> =
                look.cells().into_iter().map(|(id, letters)| (id, letters.into())).collect();
            let cells = json!(cells).to_string();
            if told.is_fresh("cells", &cells) {
                events.insert(0, Ok(Event::default().event("cells").data(cells)));
            }
            // What may be done to it is otherwise then: the page is loaded anew.
            if look.is_still() || look.state() != state {
                events.push(Ok(Event::default().event("end").data("{}")));
                return Some((stream::iter(events), None));
            }
            if !events.is_empty() {
                return Some((stream::iter(events), Some(told)));
            }
            tokio::time::sleep(ROLLOUT).await;
        }
    }))
}

/// `GET /verify/events`
pub(super) async fn of_verification(State(control): State<Arc<Control>>, viewer: Viewer) -> Response {
    let place = viewer.caller.needs_all(OperatorRole::Viewer).and_then(|()| control.streams.place());
    let place = match place {
        Ok(place) => place,
        Err(problem) => return problem.into_response(),
    };
    let told = Told { control, viewer, last: Vec::new(), begun: Instant::now(), _place: place };
    answer(stream::unfold(Some(told), |told| async move {
        let mut told = told?;
        loop {
            tokio::time::sleep(VERIFICATION).await;
            if told.begun.elapsed() > LONGEST {
                return None;
            }
            let Ok(rows) = told.control.fleet.catalog.jobs_of_kind(verify::KIND, 1).await else { continue };
            let Some(html) = verify::still_going_on(&rows) else {
                let end = vec![Ok(Event::default().event("end").data("{}"))];
                return Some((stream::iter(end), None));
            };
            let parts = told.fresh(vec![("running".to_owned(), html)]);
            if !parts.is_empty() {
                return Some((stream::iter(parts), Some(told)));
            }
        }
    }))
}

/// A page that is told what goes on.
struct Told {
    control: Arc<Control>,
    viewer: Viewer,
    /// What it was told last, by the part's id.
    last: Vec<(String, String)>,
    begun: Instant,
    _place: OwnedSemaphorePermit,
}

impl Told {
    /// Notes what a part is now, and says whether it was otherwise.
    fn is_fresh(&mut self, id: &str, now: &str) -> bool {
        match self.last.iter_mut().find(|(known, _)| known == id) {
            Some((_, last)) if last == now => false,
            Some((_, last)) => {
                now.clone_into(last);
                true
            }
            None => {
                self.last.push((id.to_owned(), now.to_owned()));
                true
            }
        }
    }

    /// The parts that are otherwise than they were.
    fn fresh(&mut self, parts: Vec<(String, String)>) -> Vec<Result<Event, Infallible>> {
        let mut events = Vec::new();
        for (id, html) in parts {
            if self.is_fresh(&id, &html) {
                let data = json!({ "id": id, "html": html }).to_string();
                events.push(Ok(Event::default().event("part").data(data)));
            }
        }
        events
    }
}

fn answer<S>(told: impl Stream<Item = S> + Send + 'static) -> Response
where
    S: Stream<Item = Result<Event, Infallible>> + Send + 'static,
{
    use futures_util::StreamExt as _;
    Sse::new(told.flatten()).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}
