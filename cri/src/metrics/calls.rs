//! Counts calls where they come in and go out, so that no handler has to.

use super::Instruments;
use prometheus::IntGauge;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

/// Wraps the services of a gRPC server.
#[derive(Clone, Debug)]
pub(crate) struct CountCalls(pub(crate) Instruments);

impl<S> Layer<S> for CountCalls {
    type Service = Counted<S>;

    fn layer(&self, service: S) -> Counted<S> {
        Counted { service, instruments: self.0.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub(crate) struct Counted<S> {
    service: S,
    instruments: Instruments,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let operation = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let call = Call::begin(&self.instruments, operation);
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            call.end(code(answer.headers()));
            Ok(answer)
        })
    }
}

/// A call at work. A client that hangs up drops it.
struct Call {
    operation: String,
    begun: Instant,
    instruments: Instruments,
    is_answered: bool,
}

impl Call {
    fn begin(instruments: &Instruments, operation: String) -> Self {
        instruments.calls_in_flight.inc();
        let instruments = instruments.clone();
        Self { operation, begun: Instant::now(), instruments, is_answered: false }
    }

    fn end(mut self, code: Code) {
        self.is_answered = true;
        self.count(code);
    }

    fn count(&self, code: Code) {
        // Whoever may call us may name any operation; those that are not there share a row.
        let known = code != Code::Unimplemented;
        let operation = if known { self.operation.as_str() } else { "unknown" };
        self.instruments.calls.with_label_values(&[operation, name(code)]).inc();
        let time = self.begun.elapsed().as_secs_f64();
        self.instruments.call_seconds.with_label_values(&[operation]).observe(time);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.is_answered {
            self.count(Code::Cancelled);
        }
        let gauge: &IntGauge = &self.instruments.calls_in_flight;
        gauge.dec();
    }
}

/// An answer without a message says its code in its head; one with a message went well up to there.
fn code(head: &HeaderMap) -> Code {
    Status::from_header_map(head).map_or(Code::Ok, |status| status.code())
}

/// As gRPC writes codes in configuration and metrics (its `status_code` names).
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tower::ServiceExt;

    async fn called(instruments: &Instruments, operation: &str, status: Option<&str>) {
        let status = status.map(ToOwned::to_owned);
        let service = tower::service_fn(move |_: Request<()>| {
            let mut answer = Response::new(());
            if let Some(status) = &status {
                answer.headers_mut().insert("grpc-status", status.parse().unwrap());
            }
            async move { Ok::<_, Infallible>(answer) }
        });
        let request =
            Request::builder().uri(format!("/runtime.v1.X/{operation}")).body(()).unwrap();
        CountCalls(instruments.clone()).layer(service).oneshot(request).await.unwrap();
    }

    #[tokio::test]
    async fn calls_are_counted_by_operation_and_code() {
        let instruments = Instruments::new().unwrap();
        called(&instruments, "Version", None).await;
        called(&instruments, "StartContainer", Some("5")).await;
        called(&instruments, "StartContainer", Some("5")).await;
        for made_up in 0..10 {
            called(&instruments, &format!("Made{made_up}Up"), Some("12")).await;
        }
        let count = |operation, code| instruments.calls.with_label_values(&[operation, code]).get();
        assert_eq!(count("Version", "OK"), 1);
        assert_eq!(count("StartContainer", "NOT_FOUND"), 2);
        assert_eq!(count("unknown", "UNIMPLEMENTED"), 10);
        assert_eq!(instruments.calls_in_flight.get(), 0);
    }

    #[tokio::test]
    async fn a_call_whose_client_hangs_up_is_cancelled() {
        let instruments = Instruments::new().unwrap();
        let service = tower::service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<()>, Infallible>>()
        });
        let request = Request::builder().uri("/runtime.v1.X/ExecSync").body(()).unwrap();
        let call = CountCalls(instruments.clone()).layer(service).call(request);
        assert_eq!(instruments.calls_in_flight.get(), 1);
        drop(call);
        assert_eq!(instruments.calls_in_flight.get(), 0);
        let cancelled = instruments.calls.with_label_values(&["ExecSync", "CANCELLED"]).get();
        assert_eq!(cancelled, 1);
    }
}
