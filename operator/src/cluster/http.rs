//! `/metrics`, `/healthz` (nothing in the process is stuck) and `/readyz` (it has read the cluster), over plain HTTP.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::{Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use super::health::Health;
use super::metrics::Metrics;

/// Most connections at a time: scrapers and probes need a handful.
const MOST_CONNECTIONS: usize = 64;
/// Longest wait for a request on a connection.
const READ_WAIT: Duration = Duration::from_secs(10);

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, health: Arc<Health>, metrics: Arc<Metrics>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(failure) => {
                tracing::warn!(%failure, "cannot accept a connection for metrics");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let (health, metrics) = (health.clone(), metrics.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&request, &health, &metrics);
                async move { Ok::<_, Infallible>(answer) }
            });
            // What goes wrong on a connection is the other side's affair.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(READ_WAIT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    health: &Health,
    metrics: &Metrics,
) -> Response<http_body_util::Either<Full<Bytes>, Empty<Bytes>>> {
    let text = |status, text: String| {
        let mut response =
            Response::new(http_body_util::Either::Left(Full::new(Bytes::from(text))));
        *response.status_mut() = status;
        response
    };
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, String::new());
    }
    match request.uri().path() {
        "/healthz" => match health.stuck() {
            None => text(StatusCode::OK, "ok\n".into()),
            Some(what) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")),
        },
        "/readyz" if health.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the cluster was not read yet, or does not answer\n".into(),
        ),
        "/metrics" => text(StatusCode::OK, metrics.text()),
        _ => text(StatusCode::NOT_FOUND, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn probes_are_answered_by_what_the_parts_say() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let health = Arc::new(Health::default());
            tokio::spawn(serve(listener, health.clone(), Metrics::new("operator")));
            let ask = async |path: &str| {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                let status = answer.split(' ').nth(1).unwrap().to_owned();
                let (_, body) = answer.split_once("\r\n\r\n").unwrap();
                (status, body.to_owned())
            };
            assert_eq!(ask("/readyz").await.0, "503");
            health.ready.store(true, Ordering::Relaxed);
            assert_eq!(ask("/readyz").await.0, "200");
            // A part that has begun something and is never heard again.
            let part = health.part("worker 1", Duration::from_millis(1));
            assert_eq!(ask("/healthz").await.0, "200");
            part.begin();
            tokio::time::sleep(Duration::from_millis(20)).await;
            let (status, body) = ask("/healthz").await;
            assert_eq!(status, "503");
            assert!(body.contains("worker 1 has been stuck"), "{body}");
            part.rest();
            assert_eq!(ask("/healthz").await.0, "200");
            assert_eq!(ask("/elsewhere").await.0, "404");
        });
    }
}
