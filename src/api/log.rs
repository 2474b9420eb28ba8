//! The log as others read it: C2SP tlog-tiles over HTTP, read-only. Hashes and checkpoints are for anyone; entries name
//! hosts and why they were denied, so bundles of them are for operators.

use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use countersign_attestation::lineage::tile::{Tile, TileKind};

use crate::api::App;
use crate::problem::{Problem, Refusal};

/// The largest is a bundle of 256 entries of 64 KiB, which is what a length of 16 bits allows.
const TILE_BYTES_MAX: u64 = 256 * 65_538;

/// The newest checkpoint that all tiles are there for.
pub(super) async fn checkpoint(State(broker): App) -> Result<Response, Problem> {
    let path = broker.data.log().join("checkpoint");
    let note =
        tokio::fs::read(path).await.map_err(|_| Refusal::TileUnknown.because("a published checkpoint", "none"))?;
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    let cache = HeaderValue::from_static("no-cache");
    Ok(([(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, cache)], note).into_response())
}

/// A tile of hashes.
pub(super) async fn hashes(app: App, Path(path): Path<String>) -> Result<Response, Problem> {
    tile(app, &path, |kind| matches!(kind, TileKind::Hashes(_)), "public, max-age=31536000, immutable").await
}

/// A bundle of entries.
pub(super) async fn entries(app: App, Path(path): Path<String>) -> Result<Response, Problem> {
    let path = format!("entries/{path}");
    tile(app, &path, |kind| kind == TileKind::Entries, "private, max-age=31536000, immutable").await
}

async fn tile(
    State(broker): App,
    path: &str,
    of_kind: impl Fn(TileKind) -> bool,
    cache: &'static str,
) -> Result<Response, Problem> {
    let unknown = || Refusal::TileUnknown.because("a tile of the published tree", path);
    // One spelling each, so that no path leads anywhere else.
    let tile = Tile::parse(&format!("tile/{path}")).filter(|tile| of_kind(tile.kind())).ok_or_else(unknown)?;
    let file = broker.data.log().join(tile.path());
    let size = tokio::fs::metadata(&file).await.map_err(|_| unknown())?.len();
    if TILE_BYTES_MAX < size {
        return Err(unknown());
    }
    let bytes = tokio::fs::read(&file).await.map_err(|_| unknown())?;
    let media_type = HeaderValue::from_static("application/octet-stream");
    let headers = [(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, HeaderValue::from_static(cache))];
    Ok((headers, bytes).into_response())
}
