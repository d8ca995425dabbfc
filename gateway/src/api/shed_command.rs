//! Has nodes close the clients that other nodes have room for.

use serde_json::{Value, json};
use shared::error::ErrorCode;

use super::api_error::ApiError;
use super::api_request;
use super::inspect::with_missing;
use super::run_command::ApiCall;
use crate::node::AskError;
use crate::node::control::NodeInfo;
use crate::node::node_message::{NodeRequest, NodeResponse, ShedReport, ShedWanted};

/// The longest duration of a shed that may be requested, in seconds.
const OVER_S_MAX: u32 = 86_400;

/// The largest tolerance above the mean that may be requested, in percent.
const TOLERANCE_PERCENT_MAX: u32 = 1_000;

/// The most nodes whose answers an error lists.
const PROBLEMS_MAX: usize = 5;

impl ApiCall<'_> {
    /// Returns what each node is going to do.
    pub(super) async fn shed(&self, request: &api_request::Shed<'_>) -> Result<Value, ApiError> {
        if request.over_s > OVER_S_MAX {
            return Err(ApiError::bad_request(format!("over_s is more than {OVER_S_MAX}")));
        }
        if request.tolerance_percent > TOLERANCE_PERCENT_MAX {
            let problem = format!("tolerance_percent is more than {TOLERANCE_PERCENT_MAX}");
            return Err(ApiError::bad_request(problem));
        }
        self.in_time()?;
        let wanted = ShedWanted {
            over_s: Some(u64::from(request.over_s)).filter(|over| *over > 0),
            tolerance_percent: Some(request.tolerance_percent).filter(|tolerance| *tolerance > 0),
            stop: request.stop,
        };
        let question = NodeRequest::Shed(wanted);
        let answers = match &*request.node {
            "" => self.node.ask_all(question).await.map_err(ApiError::not_read)?,
            node => {
                let nodes = self.node.nodes().await.map_err(ApiError::not_read)?;
                let mut meant = nodes.into_iter().filter(|one| *one.uid == *node || *one.name == *node);
                let (Some(one), None) = (meant.next(), meant.next()) else {
                    return Err(ApiError::bad_request(
                        "no node has this name or uid, or several have this name",
                    ));
                };
                let answer = self.node.ask(&one.uid, question).await;
                vec![(one, answer)]
            }
        };
        let (mut nodes, mut missing, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for (node, answer) in answers {
            match answer {
                Ok(NodeResponse::Shed(report)) => nodes.push(describe(&node, report)),
                Ok(_) => {
                    problems.push(format!("{}: {}", node.name, AskError::NotUnderstood));
                    missing.push(node.name);
                }
                Err(error) => {
                    problems.push(format!("{}: {error}", node.name));
                    missing.push(node.name);
                }
            }
        }
        if nodes.is_empty() {
            return Err(ApiError::with_detail(ErrorCode::Internal, nodes_problems(&problems)));
        }
        Ok(with_missing(json!({ "nodes": nodes }), &missing))
    }
}

/// Returns why no node has reported what it does.
fn nodes_problems(problems: &[String]) -> String {
    if problems.is_empty() {
        return "no node is registered, not even this one".to_owned();
    }
    let message = problems.get(..PROBLEMS_MAX).unwrap_or(problems).join("; ");
    match problems.len().saturating_sub(PROBLEMS_MAX) {
        0 => message,
        more => format!("{message}; and {more} more nodes"),
    }
}

fn describe(node: &NodeInfo, report: ShedReport) -> Value {
    let ShedReport { state, before, mean, to_close, closed, over_ms } = report;
    json!({
        "uid": node.uid, "name": node.name, "state": state, "before": before, "mean": mean, "to_close": to_close,
        "closed": closed, "over_ms": over_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_the_nodes_have_said_up_to_a_few_of_them() {
        assert_eq!(nodes_problems(&[]), "no node is registered, not even this one");
        let problems: Vec<String> = (0..7).map(|at| format!("n{at}: {}", AskError::Deaf)).collect();
        assert_eq!(nodes_problems(&problems[..1]), "n0: the node does not receive requests");
        let message = nodes_problems(&problems);
        assert!(
            message.contains("n4: ") && !message.contains("n5: ") && message.ends_with("; and 2 more nodes"),
            "{message}"
        );
    }
}
