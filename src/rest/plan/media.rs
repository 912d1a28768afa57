//! Content negotiation: the media type of the answer, and what makes its body, manybox or a function of the database.

use super::super::error::{Code, Error};
use super::super::request::media::{Media, PlanMedia};
use super::super::request::{Action, Request};
use super::listed;
use super::tree::{Handler, Name, Read};
use crate::policy::Api;
use crate::schema::{self, Schema, Target};

/// The most preferred media type that can be made of these rows. `origin`: the relation or function they are of.
///
/// # Errors
/// 406 PGRST107.
pub(super) fn negotiate<'a>(
    request: &Request,
    api: &Api,
    schema: &'a Schema,
    origin: Option<Name<'a>>,
    read: &Read<'a>,
) -> Result<(Handler<'a>, Media), Error> {
    // A handler of a relation's rows takes whole rows only.
    let whole = matches!(&read.columns[..], [column] if column.operand.column == "*" && column.aggregate.is_none())
        && read.embeds.is_empty();
    let origin = origin.filter(|_| whole);
    let found = request.accept.iter().find_map(|media| match media {
        Media::Plan(plan) if api.db_plan_enabled => {
            let handler =
                built_in(&plan.of).or_else(|| find(schema, origin, &plan.of).map(|(handler, _)| handler))?;
            let of = match &plan.of {
                Media::Any => Media::Json,
                media => media.clone(),
            };
            Some((handler, Media::Plan(Box::new(PlanMedia { of, ..(**plan).clone() }))))
        }
        Media::Plan(_) => None,
        media => match built_in(media) {
            Some(handler) => Some((handler, media.clone())),
            None => find(schema, origin, media),
        },
    });
    found.ok_or_else(|| not_acceptable(request))
}

/// The handlers that the database can't replace.
fn built_in<'a>(media: &Media) -> Option<Handler<'a>> {
    match media {
        Media::Object { stripped } => Some(Handler::Object { stripped: *stripped }),
        Media::ArrayStripped => Some(Handler::Json { stripped: true }),
        _ => None,
    }
}

/// Handlers in their order: the function's or relation's own for `*/*`, its own for this type, one for any row of this
/// type, manybox's.
fn find<'a>(schema: &'a Schema, origin: Option<Name<'a>>, media: &Media) -> Option<(Handler<'a>, Media)> {
    let name = media.name().to_lowercase();
    let own = |media: &str| {
        let origin = origin.map(|name| schema::Name::new(name.schema, name.name))?;
        let routine = schema.media_handler(&Target::Routine(origin.clone()), media);
        routine.or_else(|| schema.media_handler(&Target::Relation(origin), media))
    };
    let found =
        own("*/*").or_else(|| own(&name)).or_else(|| schema.media_handler(&Target::AnyElement, &name));
    if let Some(found) = found {
        let function = Name::from(&found.function);
        let handler = match &found.target {
            Target::Relation(row_type) => Handler::Aggregate(function, Some(Name::from(row_type))),
            Target::AnyElement => Handler::Aggregate(function, None),
            Target::Routine(_) => Handler::Value,
        };
        return Some((handler, Media::parse(&found.content_type)));
    }
    match media {
        Media::Json | Media::Any => Some((Handler::Json { stripped: false }, Media::Json)),
        Media::Csv => Some((Handler::Csv, Media::Csv)),
        Media::GeoJson => Some((Handler::GeoJson(schema.geojson.as_ref().map(Name::from)?), Media::GeoJson)),
        _ => None,
    }
}

/// Checks that the root document, which is JSON, is accepted.
pub(super) fn document(request: &Request) -> Result<(), Error> {
    debug_assert!(matches!(request.action, Action::Document), "only the root has a document");
    let fits = |media: &Media| matches!(media, Media::OpenApi | Media::Json | Media::Any);
    if request.accept.iter().any(fits) { Ok(()) } else { Err(not_acceptable(request)) }
}

fn not_acceptable(request: &Request) -> Error {
    let names = listed(request.accept.iter().map(Media::name));
    let message = format!("None of these media types are available: {names}");
    Error::new(Code::MediaTypeError, message)
}
